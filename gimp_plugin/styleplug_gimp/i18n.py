"""Translation of the plug-in's own messages; catalogues lie in ``locale/``."""

import gettext
from pathlib import Path

_ = gettext.translation(
    "styleplug_gimp", Path(__file__).with_name("locale"), fallback=True
).gettext
