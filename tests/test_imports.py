import gc
import sys
from collections.abc import Iterator

import pytest

from styleplug import imports


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_no_garbage_is_looked_for_while_torch_is_imported(before_torch: None) -> None:
    with imports.quickly():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_garbage_is_looked_for_again_after_an_import_that_fails(
    before_torch: None,
) -> None:
    with pytest.raises(ModuleNotFoundError), imports.quickly():
        raise ModuleNotFoundError
    assert gc.isenabled()


def test_who_looks_for_no_garbage_is_left_alone(before_torch: None) -> None:
    gc.disable()
    try:
        with imports.quickly():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_came_after_torch_is_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    with imports.quickly():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0
