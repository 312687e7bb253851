"""The import rules of the house, the size of its rooms, and that a plugin is light to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "ddn_core").rglob("*.py"), *(ROOT / "ddn_plugins").rglob("*.py")])
OURS = ("ddn_core", "ddn_plugins")


def _name(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path):
    """Yield every module that a file imports, at any depth, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (
                f"{node.module}.{alias.name}"
                for alias in node.names
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
            )


def _inside(module, *rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _allowed(importer, imported):
    """Say whether a module of ours may import another of ours."""
    if _inside(importer, "ddn_plugins"):
        return imported == "ddn_core.api" or _inside(imported, "ddn_plugins")
    if _inside(imported, "ddn_plugins"):
        return False
    if _inside(importer, "ddn_core.engine"):
        return _inside(imported, "ddn_core.engine", "ddn_core.errors")
    if _inside(importer, "ddn_core.errors"):
        return False
    if _inside(importer, "ddn_core.plugins"):  # of the engine only its face, for types
        return _inside(imported, "ddn_core.plugins", "ddn_core.errors") or imported == "ddn_core.engine"
    if _inside(importer, "ddn_core.config"):
        return _inside(imported, "ddn_core.config", "ddn_core.plugins", "ddn_core.errors")
    if _inside(importer, "ddn_core.testing"):
        return _inside(imported, "ddn_core.testing", "ddn_core.errors") or imported in (
            "ddn_core.api",
            "ddn_core.traces",
        )
    if _inside(imported, "ddn_core.engine") and imported != "ddn_core.engine":
        return False  # nobody reaches into the engine
    if importer == "ddn_core.api":
        return imported == "ddn_core.engine" or _inside(imported, "ddn_core.plugins")
    return not _inside(imported, "ddn_core.cli") or _inside(importer, "ddn_core.cli")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_import_rules(path):
    for imported in _imports(path):
        if _inside(imported, *OURS):
            assert _allowed(_name(path), imported), f"{_name(path)} may not import {imported}"


def test_the_rules_can_fail():
    assert not _allowed("ddn_plugins.damping.constant", "ddn_core.engine.step")
    assert not _allowed("ddn_core.engine.step", "ddn_core.plugins.strategy")
    assert not _allowed("ddn_core.config.load", "ddn_core.engine")
    assert not _allowed("ddn_core.optim", "ddn_core.engine.step")
    assert not _allowed("ddn_core.computation", "ddn_plugins")


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_engine_knows_no_plugin_machinery_and_nobody_torchvision(path):
    imports = set(_imports(path))
    if _inside(_name(path), "ddn_core.engine"):
        assert not any(_inside(module, "pydantic", "pluggy", "typer", "rich") for module in imports)
    if not _inside(
        _name(path),
        "ddn_core.engine.capture",
        "ddn_core.computation",
        "ddn_core.optim",
        "ddn_core.training",
        "ddn_core.cli",
    ):
        assert not any(_inside(module, "backpack") for module in imports)
    assert not any(_inside(module, "torchvision", "backpack.utils.examples") for module in imports)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_rooms_are_small(path):
    assert len(path.read_text().splitlines()) <= 300


def test_one_file_a_strategy():
    for family in ("criteria", "damping", "problems"):
        for path in (ROOT / "ddn_plugins" / family).glob("[!_]*.py"):
            classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
            assert len(classes) == 1, path


def test_importing_the_package_imports_neither_torch_nor_a_plugin():
    code = "import sys, ddn_core; assert not {'torch', 'backpack', 'pydantic', 'ddn_plugins'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names_are_there():
    import ddn_core
    import ddn_core.api

    for name in ddn_core.__all__:
        assert getattr(ddn_core, name).__doc__
    for name in ddn_core.api.__all__:
        assert hasattr(ddn_core.api, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ddn_core.nonsense
