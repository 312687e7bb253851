"""The import rules of the house, and that a plugin is light to import."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "ddn_core").rglob("*.py"), *(ROOT / "ddn_plugins").rglob("*.py")])
OURS = ("ddn_core", "ddn_plugins")

GROUND = tuple(f"ddn_core.{name}" for name in ("errors", "files", "foreign", "locks", "tables", "text"))
"""Modules that import nothing of ours but each other, so that every room may import them."""

ROOMS = {
    "ddn_core.errors": (),
    "ddn_core.files": ("ddn_core.errors",),
    "ddn_core.foreign": ("ddn_core.errors", "ddn_core.text"),
    "ddn_core.locks": ("ddn_core.errors", "ddn_core.files"),
    "ddn_core.tables": ("ddn_core.text",),
    "ddn_core.text": (),
    "ddn_core.engine": (),
    "ddn_core.plugins": ("ddn_core.engine",),
    "ddn_core.config": ("ddn_core.plugins",),
    "ddn_core.api": ("ddn_core.engine", "ddn_core.plugins"),
    "ddn_core.testing": ("ddn_core.api", "ddn_core.traces"),
    "ddn_core.measures": ("ddn_core.api", "ddn_core.engine"),
    "ddn_core.plots": ("ddn_core.api", "ddn_core.measures"),
    "ddn_core.runs": ("ddn_core.plots",),
    "ddn_core.traces": tuple(
        f"ddn_core.{name}" for name in ("api", "config", "engine", "measures", "optim", "plots", "plugins", "runs")
    ),
    "ddn_core.training": tuple(
        f"ddn_core.{name}" for name in ("config", "engine", "optim", "plots", "plugins", "runs", "traces")
    ),
    "ddn_core.trials": ("ddn_core.config", "ddn_core.plugins", "ddn_core.runs"),
}
"""Rooms of which one may import only these others, the ground, and itself."""


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
            inner = [alias.name for alias in node.names if _is_module(f"{node.module}.{alias.name}")]
            yield from (f"{node.module}.{name}" for name in inner)
            if len(inner) < len(node.names):
                yield node.module


def _is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


IMPORTS = {_name(path): sorted(set(_imports(path))) for path in MODULES}


def _inside(module, *rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _allowed(importer, imported):
    """Say whether a module of ours may import another of ours."""
    if _inside(importer, "ddn_plugins"):
        return imported == "ddn_core.api" or _inside(imported, "ddn_plugins")
    if _inside(imported, "ddn_plugins"):
        return False
    if _inside(imported, "ddn_core.engine") and not _inside(importer, "ddn_core.engine"):
        return imported == "ddn_core.engine" and _in_reach(importer, imported)  # nobody reaches into the engine
    if _inside(imported, "ddn_core.training"):
        return _inside(importer, "ddn_core.training", "ddn_core.cli")
    if _inside(imported, "ddn_core.cli"):
        return _inside(importer, "ddn_core.cli")
    return _in_reach(importer, imported)


def _in_reach(importer, imported):
    for room, others in ROOMS.items():
        if _inside(importer, room):
            return _inside(imported, room, *others) or (room not in GROUND and _inside(imported, *GROUND))
    return True


def _pairs():
    """Yield who imports whom, of our modules."""
    for importer, imports in IMPORTS.items():
        yield from ((importer, imported) for imported in imports if _inside(imported, *OURS))


def test_import_rules():
    assert [f"{one} may not import {other}" for one, other in _pairs() if not _allowed(one, other)] == []


def test_the_rules_can_fail():
    assert not _allowed("ddn_plugins.damping.constant", "ddn_core.engine.step")
    assert not _allowed("ddn_core.engine.step", "ddn_core.plugins.strategy")
    assert not _allowed("ddn_core.config.load", "ddn_core.engine")
    assert not _allowed("ddn_core.optim", "ddn_core.engine.step")
    assert not _allowed("ddn_core.computation", "ddn_plugins")
    assert not _allowed("ddn_core.training.loop", "ddn_core.cli.display")
    assert not _allowed("ddn_core.traces.trace", "ddn_core.training.loop")
    assert not _allowed("ddn_core.plots.curves", "ddn_core.runs")
    assert not _allowed("ddn_core.files", "ddn_core.tables")


def _circle(graph):
    """Return a circle in a graph of who imports whom, as a path that ends where it begins, or nothing."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]  # its order is that of the imported before the importer
    return []


def _parts(module):
    """Return the packages that a module is in and its own name, which is `__init__` for a package itself."""
    return [*module.split("."), *(["__init__"] if (ROOT / module.replace(".", "/")).is_dir() else [])]


def _room_graphs():
    """Yield, for each package, who imports whom of the modules and packages that are directly in it."""
    graphs = defaultdict(lambda: defaultdict(set))
    for importer, imported in _pairs():
        own, other = _parts(importer), _parts(imported)
        shared = next((n for n, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), 0)
        if shared:
            package = ".".join(own[:shared])
            graphs[package][own[shared]].add(other[shared])
    return graphs


def test_nothing_imports_in_circles():
    """Neither modules nor packages, counting imports within functions and for types."""
    modules = defaultdict(set)
    for importer, imported in _pairs():
        if importer != imported:
            modules[importer].add(imported)
    graphs = {"modules": modules, **_room_graphs()}
    circles = {name: circle for name, graph in graphs.items() if (circle := _circle(graph))}
    assert [f"{name}: {' -> '.join(circle)}" for name, circle in circles.items()] == []


def test_circles_are_found():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in (list("abca"), list("bcab"), list("cabc"))
    assert _circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_engine_knows_no_plugin_machinery_and_nobody_torchvision():
    found = []
    for module, imports in IMPORTS.items():
        banned = ["torchvision", "backpack.utils.examples"]
        if _inside(module, "ddn_core.engine"):
            banned += ["pydantic", "pluggy"]
        if not _inside(module, "ddn_core.cli"):
            banned += ["typer", "rich"]
        knows_backpack = ("engine.capture", "computation", "optim", "training", "cli")
        if not _inside(module, *(f"ddn_core.{room}" for room in knows_backpack)):
            banned.append("backpack")
        found += [f"{module} imports {imported}" for imported in imports if _inside(imported, *banned)]
    assert found == []


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
