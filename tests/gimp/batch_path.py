"""Whether the plug-in runs with another Python first on the path."""

import shutil
import sys

from in_gimp import Notes, make, stylize

notes = Notes(sys.argv[1])
notes["python"] = shutil.which("python3")
notes["status"] = stylize(*make())
notes.save()
