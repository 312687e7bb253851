"""Plugins for real: packages built, installed and discovered, one of them broken, two claiming one name."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from ddn_core.api import Criterion, Damping, Directions, hookimpl
from ddn_core.config import load_config, parse_config
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import ConfigError, PluginError
from ddn_core.plugins.discovery import PluginEntry, installed_entries
from ddn_core.plugins.registry import Registry, installed_registry
from tests.commands import ddn

PACKAGES = Path(__file__).parent / "plugins"
NAMES = ["acme", "broken", "misspelt", "intruder", "twin_first", "twin_second"]

pytestmark = pytest.mark.xdist_group("plugins")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the packages, built and installed by pip."""
    folder, sources = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("sources")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    for name in NAMES:
        subprocess.run(["cp", "-r", PACKAGES / name, sources / name], check=True)
    subprocess.run([*command, "--target", folder, *(sources / name for name in NAMES)], check=True, capture_output=True)
    return folder


@pytest.fixture
def registry(site, monkeypatch):
    """The registry of an environment in which the packages are installed."""
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield Registry(installed_entries())
    for name in [name for name, module in sys.modules.items() if str(site) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]  # those of the packages only: torch cannot be imported twice


def test_entries_are_found_without_an_import(registry):
    found = {(entry.name, entry.distribution, entry.version) for entry in installed_entries()}
    assert {("acme", "ddn-acme", "1.2"), ("broken", "ddn-broken", "0.1"), ("twin", "ddn-twin-first", "1.0")} <= found
    assert ("builtin", "ddn-core") in {entry[:2] for entry in found}
    registry.lookup("damping", "constant")
    assert not any(name in sys.modules for name in ("acme_ddn", "broken_ddn", "misspelt_ddn"))


def test_a_plugin_is_imported_when_a_config_mentions_it(registry):
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    parse_config({"groups": [group]}, registry=registry)
    assert "acme_ddn" not in sys.modules
    config = parse_config(
        {"groups": [{**group, "damping": {"kind": "acme/spectral-floor", "fraction": 0.5}}]}, registry=registry
    )
    assert "acme_ddn" in sys.modules
    damping = config.groups[0].damping
    evals = torch.tensor([0.1, 1.0])
    directions = Directions.from_tensors(evals, torch.eye(2), torch.ones(3, 2), evals.expand(3, 2))
    torch.testing.assert_close(damping(directions), torch.tensor([0.4, 1e-6]))
    assert damping.label() == "damping 'acme/spectral-floor' (ddn-acme 1.2)"


def test_provenance_names_the_plugins_that_were_used(registry):
    nested = {"kind": "maximum", "of": [{"kind": "constant"}, {"kind": "acme/spectral-floor"}]}
    config = parse_config(
        {"groups": [{"params": ["*"], "criterion": {"kind": "all"}, "damping": nested}]}, registry=registry
    )
    provenance = resolved_config(config, registry)["provenance"]
    acme, builtin = provenance["plugins"]
    assert acme == {"name": "acme", "distribution": "ddn-acme", "version": "1.2"}
    assert builtin["distribution"] == "ddn-core"


ERRORS = {
    "broken/any": "needs plugin 'broken' (ddn-broken 0.1), which failed to import: ModuleNotFoundError: No module named 'a_module_that_nobody_has'",
    "misspelt/any": "needs plugin 'misspelt' (ddn-misspelt 0.1), which failed to register: unknown hook 'ddn_damping'. Did you mean 'ddn_dampings'?",
    "intruder/constant": "which failed to register: ddn_dampings returned Constant of kind 'constant'; expected class Constant(Damping, kind=\"intruder/name\")",
    "twin/any": "'twin/any' needs plugin 'twin', which is claimed by ddn-twin-first 1.0 and ddn-twin-second 2.0. Uninstall one of them.",
    "acmee/floor": "needs plugin 'acmee', which is not installed. Did you mean 'acme'?",
    "acme/spectral-flor": "no damping named 'acme/spectral-flor'. Did you mean 'acme/spectral-floor'?",
    "acme/every-second": "no damping named 'acme/every-second'. It is a criterion.",
    "constnat": "no damping named 'constnat'. Did you mean 'constant'?",
}


@pytest.mark.parametrize("kind", ERRORS)
def test_what_cannot_be_had_is_told(registry, kind):
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": kind}}
    with pytest.raises(ConfigError) as error:
        parse_config({"groups": [group]}, "train.toml", registry)
    head, line = str(error.value).split("\n")
    assert head == "train.toml: 1 error"
    assert line.startswith("  groups.0.damping.kind: ")
    assert ERRORS[kind] in line


def test_the_cause_is_chained(registry):
    with pytest.raises(PluginError) as error:
        registry.lookup("damping", "broken/any")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
    with pytest.raises(PluginError) as again:  # and told again, without a second import
        registry.lookup("damping", "broken/any")
    assert again.value.__cause__ is error.value.__cause__


def test_broken_plugins_harm_no_other(registry):
    for kind in ERRORS:
        with pytest.raises(PluginError):
            registry.lookup("damping", kind)
    assert registry.lookup("damping", "acme/spectral-floor").kind == "acme/spectral-floor"
    assert registry.lookup("criterion", "top-k").kind == "top-k"


def test_records_of_all_plugins(registry):
    records = {record.name: record for record in registry.plugins()}
    assert set(records["acme"].components["damping"]) == {"acme/spectral-floor", "acme/ratio"}
    assert set(records["acme"].components["problem"]) == {"acme/line"}
    assert {name for name, record in records.items() if record.error is not None} == {
        "broken",
        "misspelt",
        "intruder",
        "twin",
    }
    assert len(records["twin"].entries) == 2


def test_builtins_come_through_the_same_loader():
    (record,) = [record for record in installed_registry().plugins() if record.name == "builtin"]
    assert record.entries[0].module == "ddn_plugins"
    assert set(record.components["criterion"]) == {
        "all",
        "top-k",
        "threshold",
        "relative-threshold",
        "energy",
        "eigengap",
        "snr",
        "gain",
        "bulk-edge",
        "gradient-overlap",
        "effective-dimension",
        "random",
        "all-of",
        "any-of",
        "none-of",
        "at-least",
        "at-most",
    }
    assert set(record.components["damping"]) == {
        "fresh-batch",
        "constant",
        "relative",
        "marquardt",
        "levenberg-marquardt",
        "trust-region",
        "cubic",
        "gradient-norm",
        "gradient-noise",
        "snr-cutoff",
        "smooth-pseudo-inverse",
        "bootstrap",
        "clip",
        "evidence",
        "schedule",
        "maximum",
        "minimum",
        "sum",
        "scale",
        "clamp",
        "switch",
    }


def test_a_rival_of_the_builtins_is_told():
    rival = PluginEntry("builtin", "somewhere", "ddn-rival", "1.0")
    registry = Registry([*installed_entries(), rival])
    assert registry.lookup("damping", "constant").kind == "constant"  # what is built in stays
    (record,) = (record for record in registry.plugins() if record.entries == [rival])
    assert "uses the name of ddn's built-in plugin. Give its entry point another name." in str(record.error)


def test_ddn_plugins_lists_everything(site):
    result = ddn("plugins", site=site)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for text in ("acme/spectral-floor", "fraction = 0.001", "ddn-acme 1.2", "top-k", "k = 10", "digits-mlp", "problem"):
        assert text in result.stdout
    broken = result.stdout.partition("Plugins that failed to load")[2]
    for text in (
        "ddn-broken 0.1",
        "a_module_that_nobody_has",
        "misspelt",
        "intruder",
        "ddn-twin-first 1.0, ddn-twin-second 2.0",
    ):
        assert text in broken


def test_a_third_party_s_parts_train(site, tmp_path):
    (tmp_path / "line.toml").write_text(
        """
        problem = { kind = "acme/line" }
        training = { epochs = 30, dtype = "float64" }
        [[groups]]
        params = ["*"]
        criterion = { kind = "acme/every-second" }
        damping = { kind = "acme/ratio", start = 0.1 }
        """
    )
    result = ddn("train", "line.toml", "--out", "run", cwd=tmp_path, site=site)
    assert result.returncode == 0, result.stderr
    resolved = (tmp_path / "run" / "config.resolved.json").read_text()
    assert '"acme/ratio"' in resolved
    assert '"ddn-acme"' in resolved
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    own = checkpoint["optimizer"]["param_groups"][0]["damping"]["state"]["own"]
    assert own["_factor"] != 1.0  # it has observed the steps
    # and its own resolved config is a config
    assert ddn("check", "run/config.resolved.json", cwd=tmp_path, site=site).returncode == 0


def test_a_config_that_needs_a_broken_plugin(site, tmp_path):
    (tmp_path / "c.toml").write_text('[[groups]]\nparams=["*"]\ncriterion={kind="all"}\ndamping={kind="broken/x"}\n')
    result = ddn("check", "c.toml", cwd=tmp_path, site=site)
    assert result.returncode == 1
    assert "groups.0.damping.kind: 'broken/x' needs plugin 'broken' (ddn-broken 0.1)" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_config_cannot_bring_in_code(tmp_path):
    for kind in ("os:system", "os.path", "../evil", "builtin/constant/x", "ddn_plugins.damping.constant", ""):
        with pytest.raises(ConfigError, match="damping"):
            parse_config({"groups": [{"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": kind}}]})


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic's own, before our error
def test_a_field_named_kind_is_refused():
    with pytest.raises(PluginError, match="a field named 'kind'"):

        class Kind(Damping):
            """Has a field that a config could not set."""

            kind: str = "x"

            def damp(self, directions):
                return directions.evals


def test_an_unknown_requirement_is_refused():
    with pytest.raises(PluginError, match=r"requires names \['the moon'\]"):

        class Demanding(Criterion):
            """Wants what there is not."""

            requires = frozenset({"the moon"})

            def select(self, directions):
                return []


def test_load_config_uses_the_given_registry(registry, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(
        '{"groups": [{"params": ["*"], "criterion": {"kind": "acme/every-second"}, "damping": {"kind": "constant"}}]}'
    )
    assert load_config(path, registry=registry).groups[0].criterion.kind == "acme/every-second"


def _registered(*, plugin="acme", **hooks):
    """Load a module made on the spot, as the plugin of an entry point."""
    module = types.ModuleType("made_on_the_spot")
    for name, result in hooks.items():
        setattr(module, name, hookimpl(result if callable(result) else lambda result=result: result))
    sys.modules["made_on_the_spot"] = module
    try:
        return Registry([PluginEntry(plugin, "made_on_the_spot", "ddn-spot", "0.1")]).plugins()[0]
    finally:
        del sys.modules["made_on_the_spot"]


class Abstract(Damping, kind="acme/abstract"):
    """Lacks its formula."""


class Whole(Damping, kind="acme/whole"):
    """Has it."""

    def damp(self, directions):
        return directions.evals


class Nameless(Damping):
    """Has no kind."""

    def damp(self, directions):
        return directions.evals


class Oddly(Damping, kind=3):
    """Has a number as kind."""

    def damp(self, directions):
        return directions.evals


def _exits():
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"ddn_dampings": [Abstract]}, "returned Abstract, which lacks the method damp"),
        ({"ddn_dampings": [Nameless]}, 'expected class Nameless(Damping, kind="acme/name")'),
        ({"ddn_dampings": [Oddly]}, "returned Oddly of kind 3"),
        ({"ddn_dampings": [Whole()]}, "expected subclasses of Damping"),
        ({"ddn_dampings": [int]}, "expected subclasses of Damping"),
        ({"ddn_criteria": [Whole]}, "expected subclasses of Criterion"),
        ({"ddn_dampings": [Whole, Whole]}, "two classes of kind 'acme/whole'"),
        ({"ddn_dampings": Whole}, "failed to register"),
        ({"ddn_dampings": lambda: None}, "it brings no classes"),
        ({"ddn_dampings": _exits}, "failed to register: SystemExit: 3"),
        ({}, "it brings no classes"),
    ],
)
def test_plugins_that_give_the_wrong_thing(hooks, message):
    record = _registered(**hooks)
    assert record.error is not None
    assert message in str(record.error)
    assert record.components == {}


def test_a_plugin_that_gives_the_right_thing():
    assert _registered(ddn_dampings=[Whole]).components["damping"] == {"acme/whole": Whole}


@pytest.mark.filterwarnings("ignore:Field name")
@pytest.mark.parametrize("name", ["table", "requires", "family", "label"])
def test_fields_that_the_base_class_uses_are_refused(name):
    with pytest.raises(PluginError, match=f"a field named {name!r}"):
        type("Own", (Damping,), {"__annotations__": {name: int}, "__module__": __name__, "damp": Whole.damp})


def test_an_author_s_validator_that_raises_is_told(monkeypatch):
    class Raising(Damping, kind="acme/raising"):
        """Raises when it is made."""

        def model_post_init(self, context, /):
            raise KeyError("oh")

        def damp(self, directions):
            return directions.evals

    module = types.ModuleType("made_on_the_spot")
    module.ddn_dampings = hookimpl(lambda: [Raising])
    monkeypatch.setitem(sys.modules, "made_on_the_spot", module)
    registry = Registry([PluginEntry("acme", "made_on_the_spot", "ddn-spot", "0.1"), *installed_entries()])
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "acme/raising"}}
    with pytest.raises(
        ConfigError, match=r"groups\.0\.damping\.kind: 'acme/raising' failed to validate: KeyError: 'oh'"
    ):
        parse_config({"groups": [group]}, registry=registry)
