"""styleplug: turn photographs into paintings with fast neural style transfer.

    >>> from styleplug import stylize
    >>> painting = stylize(photograph, "starry-night", strength=0.8)

Names are loaded when they are first used, so ``import styleplug`` costs nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # importing typing would be most of the import time
if TYPE_CHECKING:
    from typing import Any

    from .engine import Stylizer, stylize, stylize_file
    from .errors import (
        DeviceError,
        DownloadError,
        ImageTooLargeError,
        InvalidImageError,
        InvalidStyleError,
        MemoryLimitError,
        StyleNotFoundError,
        StyleplugError,
        TrainingError,
    )
    from .hub import list_styles
    from .optimization import StyleImage, optimize, optimize_file
    from .style import StyleInfo

    __version__: str

__all__ = [
    "DeviceError",
    "DownloadError",
    "ImageTooLargeError",
    "InvalidImageError",
    "InvalidStyleError",
    "MemoryLimitError",
    "StyleImage",
    "StyleInfo",
    "StyleNotFoundError",
    "StyleplugError",
    "Stylizer",
    "TrainingError",
    "__version__",
    "list_styles",
    "optimize",
    "optimize_file",
    "stylize",
    "stylize_file",
]

_HOMES = {
    "Stylizer": "engine",
    "StyleImage": "optimization",
    "StyleInfo": "style",
    "list_styles": "hub",
    "optimize": "optimization",
    "optimize_file": "optimization",
    "stylize": "engine",
    "stylize_file": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        globals()[name] = _version()
    else:
        home = _HOMES.get(name, "errors")
        module = importlib.import_module(f".{home}", __name__)
        globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version(__name__)
    except metadata.PackageNotFoundError:
        return "0+checkout"
