"""The web page: ``styleplug demo`` on this machine, ``space/app.py`` on a Space.

>>> from styleplug.demo import launch
>>> launch(inbrowser=True)

Needs the extra ``demo`` (Gradio), except for the module ``studio``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .studio import Limits, Studio

if TYPE_CHECKING:
    from .page import launch

__all__ = ["Limits", "Studio", "launch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import page

    return getattr(page, name)
