"""The import of torch and what needs it, which is most of the wait for a small picture.

A command wraps it in :func:`quickly`; a library must not, as it does not own the
process.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """Import torch in here without looking for garbage, of which imports make little.

    What there is then is not looked through later, either, not even at exit. Together
    it takes a quarter of the time off a process that does nothing else.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
