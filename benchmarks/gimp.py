"""Time and memory of the GIMP filter, in a real GIMP, against the aims of the plan.

    STYLEPLUG_GIMP3_DIR=... GIMP3_ROOT=... python benchmarks/gimp.py STYLE.safetensors

Prints JSON. The machine should be otherwise idle.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "gimp")]

from harness import REAL, run_gimp  # noqa: E402


def seconds_to_import_torch() -> float:
    """Median of three, the files being warm."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        style = folder / "style.safetensors"
        style.write_bytes(Path(sys.argv[1]).read_bytes())
        notes = run_gimp(
            folder,
            "batch_benchmark.py",
            folder,
            style,
            json.dumps(REAL),
            command=REAL,
        )
    notes["import torch, s"] = round(seconds_to_import_torch(), 3)
    print(json.dumps(notes, indent=2))


if __name__ == "__main__":
    main()
