"""Serve the page for the tests: ``python serve.py FOLDER_OF_STYLES PORT``."""

import sys
from pathlib import Path

from styleplug.demo import Limits, launch
from styleplug.style import read_info

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    launch(
        styles=[read_info(path) for path in sorted(folder.glob("*.safetensors"))],
        hub_styles=("allowed/*",),
        limits=Limits(pixels=4_000_000, file_bytes=8 * 2**20, files=4),
        thumbnails=folder / "thumbnails",
        server_name="127.0.0.1",
        server_port=int(sys.argv[2]),
        mcp_server=True,
        quiet=True,
    )
