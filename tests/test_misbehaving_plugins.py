"""Plugins that fail in unusual ways are listed as broken, and leave nothing behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import textwrap
import types

import pytest
import torch
from pydantic import Field

from ddn_core.api import Criterion, Damping, Directions, Problem, ProblemParts, hookimpl
from ddn_core.cli.component_page import component_page
from ddn_core.cli.listing import broken_report, plugin_report, schema_text
from ddn_core.config import Config, parse_config
from ddn_core.errors import ConfigError, PluginError, StrategyError
from ddn_core.plugins import component
from ddn_core.plugins.discovery import PluginEntry, installed_entries
from ddn_core.plugins.messages import error_text, value_text
from ddn_core.plugins.registry import Registry
from ddn_core.training.problem import checked_batches, load_problem

GOOD = """
from ddn_core.api import Damping, hookimpl

class One(Damping, kind="odd/one"):
    '''δ_k = 1.'''

    def damp(self, directions):
        return 0 * directions.evals + 1

@hookimpl
def ddn_dampings():
    return [One]
"""


@pytest.fixture
def registry_with(tmp_path, monkeypatch):
    """Return a function that makes a registry of the built-in plugin, of `odd` with given source, and of a good one."""

    def make(source):
        for name, text in (("odd_ddn", source), ("good_ddn", GOOD.replace("odd/", "good/"))):
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        entries = [PluginEntry(name, f"{name}_ddn", f"ddn-{name}", "0.1") for name in ("odd", "good")]
        return Registry([*entries, *installed_entries()])

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield make
    for name in ("odd_ddn", "good_ddn"):
        sys.modules.pop(name, None)


def only_odd_is_broken(registry):
    """Return the error of `odd`, after checking that every other plugin was loaded."""
    records = {record.name: record for record in registry.plugins()}
    assert records["good"].components["damping"].keys() == {"good/one"}
    assert records["builtin"].error is None
    assert registry.lookup("damping", "good/one")
    return records["odd"].error


TEXTLESS = """
class Textless(Exception):
    def __str__(self):
        raise ZeroDivisionError

    __repr__ = __str__
"""

BROKEN = {
    "an exception of no kind": (
        "class Odd(BaseException): pass\nraise Odd('oh')",
        "plugin 'odd' (ddn-odd 0.1) failed to import: Odd: oh",
    ),
    "an exit": ("import sys\nsys.exit(0)", "failed to import: SystemExit: 0"),
    "a generator's end": ("raise GeneratorExit", "failed to import: GeneratorExit: "),
    "an exception without text": (
        f"{TEXTLESS}\nraise Textless",
        "failed to import: Textless (its message cannot be computed: ZeroDivisionError)",
    ),
    "a long text": ("raise ValueError('x' * 10_000_000)", "x…"),
    "no recursion's end": ("def f(): f()\nf()", "failed to import: RecursionError: "),
    "no syntax": ("def", "failed to import: SyntaxError: "),
    "a module whose attributes fail": (
        "def __getattr__(name): raise RuntimeError(name)",
        "failed to register: RuntimeError: ddn_api_version",
    ),
    "a module whose attributes exit": ("def __getattr__(name): raise SystemExit(0)", "failed to register: SystemExit"),
    "a hook that fails without text": (
        f"{TEXTLESS}\nfrom ddn_core.api import hookimpl\n@hookimpl\ndef ddn_dampings(): raise Textless",
        "failed to register: Textless (its message",
    ),
    "a hook that returns a value without repr": (
        f"{TEXTLESS}\nfrom ddn_core.api import hookimpl\n@hookimpl\ndef ddn_dampings(): return Textless()",
        "ddn_dampings returned a value of type Textless (its repr cannot be computed",
    ),
    "a class whose attributes fail": (
        f"""{GOOD}
class Meta(type(Damping)):
    def __getattribute__(cls, name):
        if name == "__abstractmethods__": raise RuntimeError(name)
        return super().__getattribute__(name)
class Two(One, kind="odd/two", metaclass=Meta): pass
@hookimpl
def ddn_dampings():
    return [Two]
        """,
        "failed to register: RuntimeError: __abstractmethods__",
    ),
    "a docstring that is not a text": (f"{GOOD}\nOne.__doc__ = 3", "returned One, whose __doc__ is 3; expected a text"),
    "a kind without end": (
        GOOD.replace('"odd/one"', '"odd/" + 100_000 * "a"'),
        f"of kind 'odd/{194 * 'a'}…; expected",
    ),
}
VERSIONS = {
    "10 ** 6000": "a value of type int (its repr cannot be computed",
    "10 ** 300": "it is written for version 1000",
    "-1": "it is written for version -1",
    "'1'": "its ddn_api_version is '1'; expected an integer",
    "None": "its ddn_api_version is None",
    "float('nan')": "its ddn_api_version is nan",
    "1.0": "its ddn_api_version is 1.0",
    "True": "its ddn_api_version is True",
    "object": "its ddn_api_version is <class 'object'>",
    "'1' * 10 ** 6": "…; expected an integer",
    "type('Odd', (int,), {'__le__': lambda *_: True})(7)": "its ddn_api_version is 7",
}
BROKEN |= {f"version {version}": (f"{GOOD}\nddn_api_version = {version}", text) for version, text in VERSIONS.items()}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_listed_and_harms_no_other(registry_with, name):
    source, message = BROKEN[name]
    registry = registry_with(source)
    error = only_odd_is_broken(registry)
    assert message in str(error)
    assert len(str(error)) < 1500
    report, count = broken_report(registry)
    assert count == 1
    assert len(report) < 25_000
    with pytest.raises(PluginError, match="'odd/one' needs plugin 'odd'"):
        registry.lookup("damping", "odd/one")


def test_a_schema_lacks_a_broken_plugin_alone(registry_with, capsys):
    registry = registry_with("raise ValueError")
    schema = json.loads(schema_text(registry))
    assert "damping.good.one" in schema["$defs"]
    assert "The schema lacks the kinds of a plugin: plugin 'odd'" in capsys.readouterr().err


def test_an_interrupt_is_the_user_s(registry_with):
    with pytest.raises(KeyboardInterrupt):
        registry_with("raise KeyboardInterrupt").plugins()


LEAVING = """
import os, random, signal, sys
import torch

print("one", file=sys.stdout)
sys.stdout.write("two")
os.chdir("/")
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.manual_seed(0)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""


def surroundings():
    return (
        os.getcwd(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_rng_state().tolist(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        sys.stdout,
    )


@pytest.mark.parametrize("ending", ["", "\nraise ValueError"], ids=["a good plugin", "a broken one"])
@pytest.mark.parametrize("place", ["import", "hook"])
def test_a_plugin_leaves_nothing_behind(registry_with, capsys, tmp_path, monkeypatch, place, ending):
    monkeypatch.chdir(tmp_path)
    source = f"{GOOD}\n{LEAVING}{ending}"
    if place == "hook":
        body = textwrap.indent(LEAVING + ending, "    ")
        source = GOOD.replace("    return [One]", f"{body}\n    return [One]")
    before = surroundings()
    registry = registry_with(source)
    assert (only_odd_is_broken(registry) is None) == (not ending)
    assert surroundings() == before
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "one\ntwo")


def test_a_folder_that_is_gone_is_no_error(registry_with, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert only_odd_is_broken(registry_with(GOOD)) is None


class Unshowable:
    """A value whose text cannot be computed."""

    def __repr__(self):
        raise RuntimeError("no text")


class Shy(Damping, kind="odd/shy"):
    """Has a default without repr, which JSON cannot describe."""

    model_config = {"arbitrary_types_allowed": True}  # noqa: RUF012
    value: Unshowable = Field(default_factory=Unshowable, description="Value.")

    def damp(self, directions):
        return directions.evals


class Failing(Damping, kind="odd/failing"):
    """Has a default that cannot be computed."""

    value: float = Field(default_factory=lambda: 1 / 0, description="Value.")

    def damp(self, directions):
        return directions.evals


class Wordy(Damping, kind="odd/wordy"):
    """Has a value of many characters."""

    value: str = Field("x" * 10_000_000, description="Value.")

    def damp(self, directions):
        return directions.evals


def test_classes_that_cannot_be_described_are_listed_all_the_same(monkeypatch, capsys):
    from rich.console import Console

    module = types.ModuleType("odd_ddn")
    module.ddn_dampings = hookimpl(lambda: [Shy, Failing, Wordy])
    monkeypatch.setitem(sys.modules, "odd_ddn", module)
    registry = Registry([PluginEntry("odd", "odd_ddn", "ddn-odd", "0.1"), *installed_entries()])
    Console(width=300).print(plugin_report(registry))
    listing = capsys.readouterr().out
    assert "a value of type Unshowable (its repr cannot be computed" in listing
    assert "cannot be described: ZeroDivisionError: division by zero" in listing
    assert listing.count("x") < 10_000
    with pytest.raises(PluginError, match="'odd/failing' cannot be described: ZeroDivisionError: division by zero"):
        component_page("odd/failing", registry)
    schema = json.loads(schema_text(registry))
    assert {"damping.odd.failing", "damping.odd.shy"} & set(schema["$defs"]) == {"damping.odd.failing"}
    assert "The schema lacks the damping 'odd/shy': PydanticInvalidForJsonSchema" in capsys.readouterr().err


def test_a_distribution_without_metadata_harms_no_other(tmp_path, monkeypatch):
    folder = tmp_path / "odd-0.1.dist-info"
    folder.mkdir()
    (folder / "entry_points.txt").write_text("[ddn]\nodd = odd_ddn\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    component.origin.cache_clear()
    entries = {entry.name: entry for entry in installed_entries()}
    assert "builtin" in entries
    assert str(entries["odd"]) == "unnamed unknown"
    records = {record.name: record for record in Registry(installed_entries()).plugins()}
    assert "plugin 'odd' (unnamed unknown) failed to import" in str(records["odd"].error)
    assert component.origin(Shy) == "module tests.test_misbehaving_plugins"


class Odd(Problem, kind="odd/problem"):
    """A problem that misbehaves."""

    action: str

    def load(self):
        exec(self.action, {})
        linear = torch.nn.Linear(1, 1)
        return ProblemParts(linear, torch.nn.MSELoss(), [], [])


class Quitting:
    """Batches that end the process."""

    def __iter__(self):
        yield torch.ones(1, 1), torch.ones(1, 1)
        sys.exit(0)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("import sys; sys.exit(0)", "failed to load: SystemExit: 0"),
        ("raise GeneratorExit", "failed to load: GeneratorExit: "),
        ("raise ValueError('x' * 10**7)", "x…"),
        (TEXTLESS + "raise Textless", r"failed to load: Textless \(its message cannot be computed"),
    ],
)
def test_a_problem_that_ends_the_process_is_an_error(action, message):
    with pytest.raises(PluginError, match=rf"^problem 'odd/problem' .*{message}"):
        load_problem(Config(problem=Odd(action=action)), "config.toml")


def test_a_problem_leaves_nothing_behind_but_random_numbers(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = surroundings()
    load_problem(Config(problem=Odd(action=LEAVING.replace("meta", "cpu"))), "config.toml")
    after = surroundings()
    assert (*after[:4], *after[5:]) == (*before[:4], *before[5:])
    assert capsys.readouterr().out == ""
    config = Config(problem=Odd(action="pass"))
    states = []
    for _ in range(2):
        torch.rand(3)
        load_problem(config, "config.toml")
        states.append(torch.get_rng_state())
    assert torch.equal(*states)  # those of the seed, after the draws of the problem


def test_a_problem_that_sets_a_field_is_told_what_to_do():
    class Setting(Problem, kind="odd/setting"):
        """Sets an attribute."""

        def load(self):
            self.model = torch.nn.Linear(1, 1)

    with pytest.raises(PluginError, match=r"sets the attribute 'model', but .* declare `_model: \.\.\. = PrivateAttr"):
        load_problem(Config(problem=Setting()), "config.toml")


def test_batches_that_end_the_process_are_an_error():
    config = Config(problem=Odd(action="pass"))
    batches = checked_batches(Quitting(), config)
    next(batches)
    with pytest.raises(PluginError, match=r"problem 'odd/problem' .* failed to give a batch: SystemExit: 0"):
        next(batches)


class Rows:
    """A sequence whose entries fail."""

    def __len__(self):
        raise RuntimeError("no length")

    __repr__ = __iter__ = __getitem__ = __len__


class Raising(Criterion):
    """Fails in the given way."""

    way: str

    def select(self, directions):
        if self.way == "text":
            namespace = {}
            exec(TEXTLESS, namespace)
            raise namespace["Textless"]
        if self.way == "kind":
            raise type("Odd", (BaseException,), {})("oh")
        if self.way == "long":
            raise ValueError("x" * 10_000_000)
        return Rows()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("text", r"`select` raised Textless \(its message cannot be computed"),
        ("long", r"`select` raised ValueError: x+…"),
        ("kind", "`select` raised Odd: oh"),
        ("rows", r"`select` returned a value of type Rows \(its repr cannot be computed"),
    ],
)
def test_errors_of_strategies_have_bounded_texts(way, message):
    directions = Directions.from_tensors(torch.ones(1), torch.eye(1), torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(StrategyError, match=message) as caught:
        Raising(way=way)(directions)
    assert len(str(caught.value)) < 1500


def test_a_validator_that_exits_is_an_error_of_the_config(registry_with):
    source = GOOD.replace(
        "    def damp", "    def model_post_init(self, context, /):\n        raise SystemExit(0)\n\n    def damp"
    )
    group = {"params": ["*"], "criterion": "all", "damping": "odd/one"}
    with pytest.raises(ConfigError, match=r"groups\.0\.damping: 'odd/one' failed to validate: SystemExit: 0"):
        parse_config({"groups": [group]}, registry=registry_with(source))


def test_texts_of_values_and_errors():
    assert value_text([1, "a"]) == "[1, 'a']"
    assert error_text(KeyError("a")) == "KeyError: 'a'"
    assert error_text(ValueError("x" * 2000)) == f"ValueError: {'x' * 987}…"

    class StoppedError(Exception):
        def __str__(self):
            raise KeyboardInterrupt

        __repr__ = __str__

    for text in (value_text, error_text):
        with pytest.raises(KeyboardInterrupt):
            text(StoppedError())
