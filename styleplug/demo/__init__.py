"""The web page: ``styleplug demo`` on this machine, ``space/app.py`` on a Space.

>>> from styleplug.demo import launch
>>> launch(inbrowser=True)

Needs the extra ``demo`` (Gradio).
"""

from __future__ import annotations

from .page import build, launch
from .studio import Limits, Studio

__all__ = ["Limits", "Studio", "build", "launch"]
