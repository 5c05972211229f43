"""Which module may import which; arrows point one way."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "styleplug"
PLUGIN = ROOT / "gimp_plugin"
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")
)

# Modules of the package that a module may import, also inside functions.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "imports": set(),
    "style": {"errors", "files"},
    "color": set(),
    "files": set(),
    "images": {"color", "errors", "files", "__init__"},
    "tiling": set(),
    "networks": {"tiling"},
    "foreign": {"networks", "tiling"},
    "weights": {"errors", "files", "foreign", "networks", "style"},
}
ABOVE = {
    *("cli", "worker", "gimp", "demo", "imports"),
    *("training", "optimization", "objective"),
}
FRONT_ENDS = {"cli", "worker", "gimp", "demo"}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Names of the modules that a file imports, relative ones as ``.name``."""
    tree = ast.parse(path.read_text("utf-8"))
    found: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [a.name for a in node.names]
            found |= {"." * node.level + name for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def own_imports(module: Path) -> set[str]:
    """First names of the modules of styleplug that a module of it imports."""
    depth = len(module.parts)
    names = set()
    for name in imports(PACKAGE / module.with_suffix(".py")):
        level = len(name) - len(name.lstrip("."))
        if level == depth:
            first = name.lstrip(".").split(".")[0]
            known = any(first == other.parts[0] for other in MODULES)
            names.add(first if known else "__init__")
        elif name.split(".")[0] == "styleplug":
            names.add([*name.split("."), "__init__"][1])
    return names - {module.parts[0]}


def external_imports(module: Path, *, top_level: bool = False) -> set[str]:
    path = PACKAGE / module.with_suffix(".py")
    names = imports(path, top_level=top_level)
    return {name.split(".")[0] for name in names if not name.startswith(".")}


def parametrize_modules(*excluded: str) -> pytest.MarkDecorator:
    chosen = [m for m in MODULES if m.parts[0] not in excluded]
    return pytest.mark.parametrize("module", chosen, ids=str)


@pytest.mark.parametrize("module", ALLOWED)
def test_the_lower_layers_import_only_what_is_below(module: str) -> None:
    assert own_imports(Path(module)) <= ALLOWED[module]


@parametrize_modules(*ABOVE, "__init__", "__main__")
def test_nothing_below_knows_the_front_ends_or_the_training(module: Path) -> None:
    assert own_imports(module) & ABOVE == set()


@parametrize_modules("cli", "__main__")
def test_nothing_imports_the_command_line(module: Path) -> None:
    assert "cli" not in own_imports(module)


@parametrize_modules("hub")
def test_only_hub_imports_huggingface_hub(module: Path) -> None:
    assert "huggingface_hub" not in external_imports(module)


@pytest.mark.parametrize(
    "module",
    [
        *("__init__", "cli", "color", "errors", "files", "hub", "images", "imports"),
        *("style", "tiling"),
    ],
)
def test_what_must_start_fast_imports_no_torch(module: str) -> None:
    found = external_imports(Path(module), top_level=True)
    assert found & {"torch", "torchvision", "huggingface_hub"} == set()


@parametrize_modules("losses")
def test_torchvision_is_for_the_loss_network_only(module: Path) -> None:
    assert "torchvision" not in external_imports(module)


def test_the_gimp_plugin_imports_only_the_standard_library_gi_and_siblings() -> None:
    files = list(PLUGIN.rglob("*.py"))
    allowed = {*sys.stdlib_module_names, "gi", *(path.stem for path in files)}
    for path in files:
        names = {n.lstrip(".").split(".")[0] for n in imports(path)}
        assert names <= allowed, path
