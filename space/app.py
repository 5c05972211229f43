"""The Space: the page of ``styleplug demo``, with the host's settings.

The Space's variable ``STYLEPLUG_HUB_STYLES`` holds patterns of Hub repositories that
visitors may use as styles, such as ``owner/* other/style`` or ``*``; none by default.
"""

import contextlib
import os
from pathlib import Path

with contextlib.suppress(ImportError):
    import spaces  # noqa: F401  ZeroGPU has to come before torch

from styleplug.demo import Limits, launch

launch(
    hub_styles=os.environ.get("STYLEPLUG_HUB_STYLES", "").split(),
    limits=Limits(pixels=40_000_000, file_bytes=60 * 2**20, files=30),
    thumbnails=Path(__file__).parent / "thumbnails",
    mcp_server=True,
)
