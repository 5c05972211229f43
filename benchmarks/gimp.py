"""Time and memory of the GIMP filter, in a real GIMP, against their limits.

    python benchmarks/gimp.py STYLE [WIDTH HEIGHT]

STYLE is the name of a bundled style, or a style file that needs no trunk. WIDTH and
HEIGHT are those of the large layer, 6000 x 4000 by default. STYLEPLUG_GIMP3_DIR and
GIMP3_ROOT say where GIMP is, as for the tests. Prints JSON: the measurements, and for
each aim the figure, its limit and whether it is reached. The machine should be
otherwise idle.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "gimp")]

from harness import REAL, run_gimp  # noqa: E402

LARGE = (6000, 4000)


def seconds_to_import_torch() -> float:
    """Return the median of three, with the files already in the disk cache."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def aims(notes: dict[str, Any], import_torch: float) -> dict[str, Any]:
    """Return the figures beside their limits."""
    figures = {
        "preview of 512 px, s": (notes["preview of 512 px, s"], 0.3),
        "first preview, s": (notes["first preview, s"], round(2 * import_torch, 3)),
    }
    for layer in ("8 bit", "float"):
        for name, most in (
            ("pixels moved / render", 0.1),
            ("peak of GIMP above what it had / layer", 3),
            ("peak of the plug-in / layer", 3),
        ):
            figures[f"{layer}: {name}"] = notes[layer][name], most
    return {
        name: {"is": figure, "at most": most, "reached": figure <= most}
        for name, (figure, most) in figures.items()
    }


def main() -> None:
    """Measure and print."""
    style, *size = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if Path(style).is_file():  # where GIMP sees it
            style = shutil.copy(style, folder)
        arguments = (folder, style, json.dumps(REAL), *(size or LARGE))
        notes = run_gimp(folder, "batch_benchmark.py", *arguments, command=REAL)
    import_torch = round(seconds_to_import_torch(), 3)
    notes["import torch, s"] = import_torch
    notes["aims"] = aims(notes, import_torch)
    print(json.dumps(notes, indent=2))


if __name__ == "__main__":
    main()
