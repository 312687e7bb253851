"""For the plugin author and the user of plugins: versions, permissions, requirements, `ddn plugins`, `ddn new-plugin`."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ddn_core.api import AnyCriterion, AnyDamping, AnyProblem
from ddn_core.cli.component_page import config_example
from ddn_core.cli.new_plugin import write_plugin
from ddn_core.config import parse_config
from ddn_core.errors import ArgumentError, ConfigError, PluginError
from ddn_core.plugins.describe import example, paragraphs
from ddn_core.plugins.discovery import API_VERSION, installed_entries
from ddn_core.plugins.permission import Permission
from ddn_core.plugins.registry import Registry, installed_registry
from tests.commands import ddn, installed

ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "tests" / "plugins"
GROUP = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
ACME = {**GROUP, "damping": {"kind": "acme/spectral-floor"}}
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.xdist_group("plugin tools")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a good plugin, a broken one, and two for other versions of the API, installed by pip."""
    folder, sources = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("sources")
    for name in ("acme", "broken", "newer", "older"):
        shutil.copytree(PACKAGES / name, sources / name)
    subprocess.run([*PIP, "--target", folder, *sorted(sources.iterdir())], check=True, capture_output=True)
    return folder


@pytest.fixture
def entries(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield installed_entries()
    for name in set(sys.modules) - before:
        del sys.modules[name]


# Version of the API


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "newer",
            "it is written for version 99 of the plugin API, but ddn-core 0.1.0 offers 1. Install a newer ddn-core.",
        ),
        (
            "older",
            "it is written for version 0 of the plugin API, but ddn-core 0.1.0 offers 1. Install a newer ddn-older, "
            "or an older ddn-core.",
        ),
    ],
)
def test_another_version_of_the_api_names_both_sides(entries, name, message):
    with pytest.raises(PluginError) as error:
        Registry(entries).lookup("damping", f"{name}/one")
    head = f"'{name}/one' needs plugin '{name}' (ddn-{name} 0.1), which failed to register: "
    assert str(error.value) == head + message


@pytest.mark.parametrize("version", ["1", 1.0, True, None])
def test_a_version_is_an_integer(entries, monkeypatch, version):
    import acme_ddn

    monkeypatch.setattr(acme_ddn, "ddn_api_version", version, raising=False)
    with pytest.raises(PluginError, match="expected an integer, such as 1"):
        Registry(entries).lookup("damping", "acme/spectral-floor")
    monkeypatch.setattr(acme_ddn, "ddn_api_version", API_VERSION)
    Registry(entries).lookup("damping", "acme/spectral-floor")


# Permission and requirements


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("none", False), ("", False), ("other", False), ("all", True), ("acme", True), ("other, acme", True)],
)
def test_each_place_can_restrict_plugins(site, tmp_path, text, allowed):
    """The environment, the command line and the config say the same, and none can lift what another restricts."""
    names = [] if text in ("none", "") else text.split(", ")
    table = {"groups": [ACME], **({} if text == "all" else {"plugins": {"allow": names}})}
    (tmp_path / "free.json").write_text(json.dumps({"groups": [ACME]}))
    (tmp_path / "restricted.json").write_text(json.dumps(table))
    runs = {
        f"DDN_PLUGINS={text}": ddn("check", "free.json", site=site, cwd=tmp_path, DDN_PLUGINS=text),
        f"--plugins={text}": ddn(f"--plugins={text}", "check", "free.json", site=site, cwd=tmp_path),
        "plugins.allow in restricted.json": ddn("check", "restricted.json", site=site, cwd=tmp_path),
    }
    for place, result in runs.items():
        assert result.returncode == (0 if allowed else 1), (place, result.stderr)
        if not allowed:
            expected = f"'acme/spectral-floor' needs plugin 'acme' (ddn-acme 1.2), which is switched off by {place}."
            assert expected in result.stderr
    both = ddn("--plugins=all", "check", "restricted.json", site=site, cwd=tmp_path, DDN_PLUGINS="all")
    assert both.returncode == (0 if allowed else 1)


def test_what_is_switched_off_is_listed_and_not_imported(site):
    result = ddn("plugins", site=site, DDN_PLUGINS="none")
    assert result.returncode == 0
    off = result.stdout.partition("switched off")[2]
    assert all(name in off for name in ("acme", "broken", "ddn-newer 0.1", "DDN_PLUGINS=none"))
    assert "constant" in result.stdout  # what is built in is always there
    assert "failed to load" not in result.stdout


def test_permissions_add_up(entries):
    registry = Registry(entries, [Permission.of_text("acme,broken", "the environment")])
    registry.lookup("damping", "acme/spectral-floor")
    narrower = registry.restricted(Permission.of_text("broken,newer", "the command line"))
    for kind, place in {"acme/spectral-floor": "the command line", "newer/one": "the environment"}.items():
        with pytest.raises(PluginError, match=f"is switched off by {place}"):
            narrower.lookup("damping", kind)
    narrower.lookup("damping", "constant")
    registry.lookup("damping", "acme/spectral-floor")  # the wider one is as it was


REQUIREMENTS = {
    "ddn-acme>=1.2": None,
    "ddn_acme": None,
    "torch": None,
    "ddn-none>=1; python_version < '3'": None,
    "ddn-acme>=1.3": "plugins.require.0: needs ddn-acme>=1.3, but ddn-acme 1.2 is installed: pip install 'ddn-acme>=1.3'",
    "ddn-acm": "plugins.require.0: needs ddn-acm, which is not installed: pip install 'ddn-acm'. Did you mean 'ddn-acme'?",
    "ddn-acme @ https://example.org/x.whl": "names a place to install from; give only a distribution and its versions",
    ">=1.2": "plugins.require.0: '>=1.2' is not a requirement, such as 'ddn-acme>=1.2'",
}


@pytest.mark.parametrize("text", REQUIREMENTS)
def test_requirements_of_a_config(entries, text):
    table = {"groups": [GROUP], "plugins": {"require": [text]}}
    if REQUIREMENTS[text] is None:
        assert parse_config(table).plugins.require == [text]
    else:
        with pytest.raises(ConfigError) as error:
            parse_config(table, "train.toml")
        assert REQUIREMENTS[text] in str(error.value)


# ddn plugins


def test_broken_plugins_have_tracebacks(site):
    result = ddn("plugins", "--broken", site=site)
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stdout
    assert "import a_module_that_nobody_has" in result.stdout
    assert "plugin 'newer' (ddn-newer 0.1) failed to register: it is written for version 99" in result.stdout
    fine = ddn("plugins", "--broken")
    assert (fine.returncode, fine.stdout) == (0, "All plugins that may be loaded were loaded.\n")


def test_show_a_third_party_s_kind(site):
    result = ddn("plugins", "show", "acme/ratio", site=site)
    assert result.returncode == 0, result.stderr
    text = " ".join(result.stdout.split())
    for part in (
        "acme/ratio, a damping of plugin 'acme' (ddn-acme 1.2)",
        "acme_ddn.Ratio",
        "Damp more after a step that did worse than predicted",
        "start │ number > 0 │ 1.0",
        "Damping of the first step",
        'kind = "acme/ratio"',
        "def damp(self, directions: Directions) -> Tensor:",
        "self.start * self._factor",
    ):
        assert part in text, part


def test_show_says_what_is_wrong(site):
    for kind, message in {
        "cubik": "no strategy or problem named 'cubik'. Did you mean 'cubic'?",
        "nonsense": "no strategy or problem named 'nonsense'.",
        "acme/ratios": "no strategy or problem named 'acme/ratios'. Did you mean 'acme/ratio'?",
        "spectral-floor": "no strategy or problem named 'spectral-floor'. Did you mean 'acme/spectral-floor'?",
        "broken/any": "'broken/any' needs plugin 'broken' (ddn-broken 0.1), which failed to import",
        "nobody/any": "'nobody/any' needs plugin 'nobody', which is not installed.",
    }.items():
        result = ddn("plugins", "show", kind, site=site)
        assert result.returncode == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr


BUILT_IN = [
    cls
    for record in installed_registry().plugins()
    if record.name == "builtin"
    for kinds in record.components.values()
    for cls in kinds.values()
]


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: f"{cls.family} {cls.kind}")
def test_examples_are_valid(cls):
    """The example that `ddn plugins show` prints can be pasted into a config."""
    made = TypeAdapter({"criterion": AnyCriterion, "damping": AnyDamping, "problem": AnyProblem}[cls.family])
    expected = made.validate_python(example(cls))
    assert type(expected) is cls
    table = tomllib.loads(config_example(cls))
    config = parse_config(table if "groups" in table else {**table, "groups": [GROUP]})
    assert (config.problem if cls.family == "problem" else getattr(config.groups[0], cls.family)) == expected
    group = config.groups[0]
    guarded = group.max_step_norm == 1.0 or (group.max_decrease == 4.0 and group.averaging == "auto")
    assert guarded == (cls.family == "damping")  # none of them should stand unguarded


@pytest.mark.parametrize("cls", [cls for cls in BUILT_IN if cls.family == "damping"], ids=lambda cls: cls.kind)
def test_pages_of_dampings_say_when_they_fail(cls):
    """The last paragraph also names the remedy: a setting or a damping."""
    text = paragraphs(cls)[-1]
    assert text.startswith("When it fails: ")
    assert "`" in text


def test_every_built_in_can_be_shown():
    for cls in (BUILT_IN[0], BUILT_IN[-1], next(cls for cls in BUILT_IN if cls.kind == "schedule")):
        result = ddn("plugins", "show", cls.kind)
        assert result.returncode == 0, result.stderr
        assert "Example" in result.stdout
        assert "Formula" in result.stdout


# ddn new-plugin


def test_a_new_plugin_passes_its_own_tests(pytester):
    """Written, installed by pip from its source, and its tests run against the installed package, in this process."""
    write_plugin("my-rules")
    source = Path("ddn-my-rules").absolute()
    shutil.copytree(source / "tests", "tests")
    subprocess.run([*PIP, "--target", "site", source], check=True, capture_output=True)
    shutil.rmtree(source)
    with installed(pytester.path / "site"):
        result = pytester.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider", "tests")
    outcomes = result.parseoutcomes()
    assert set(outcomes) == {"passed"}
    assert 70 <= outcomes["passed"] < 80


@pytest.mark.slow
def test_the_wheel_of_a_new_plugin_passes_its_own_tests(tmp_path):
    """Written, built as a wheel, installed apart from its source, and its tests run against the installed wheel."""
    result = ddn("new-plugin", "my-rules", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    source, site = tmp_path / "ddn-my-rules", tmp_path / "site"
    names = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert names >= {"pyproject.toml", "README.md", ".github/workflows/test.yml", "tests/test_contract.py"}
    assert names >= {"ddn_my_rules/__init__.py", "ddn_my_rules/py.typed", ".gitignore"}
    for path in source.rglob("*.*"):
        assert not re.search(r"\{\{ (?!matrix)|jinja|MODULE", path.read_text() if path.is_file() else ""), path
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("ddn_my_rules-0.1.0-*.whl")
    subprocess.run([*PIP, "--target", site, wheel], check=True, capture_output=True)
    shutil.copytree(source / "tests", tmp_path / "away" / "tests")  # away from the source, which must not be imported
    environment = {**os.environ, "PYTHONPATH": str(site)}
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-c", os.devnull, "tests"]
    run = subprocess.run(tests, cwd=tmp_path / "away", env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\b7[0-9] passed", run.stdout), run.stdout
    shown = ddn("plugins", "show", "my-rules/spectral-floor", site=site)
    assert "a damping of plugin 'my-rules' (ddn-my-rules 0.1.0)" in shown.stdout
    style = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,I,B,UP", "."]
    found = subprocess.run(style, cwd=source, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    types = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", source / "ddn_my_rules"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert types.returncode == 0, types.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Acme", "'Acme' cannot be the name of a plugin"),
        ("a b", "cannot be the name of a plugin"),
        ("../evil", "cannot be the name of a plugin"),
        ("a--b", "cannot be the name of a plugin"),
        ("core", "'core' is a name of ddn itself"),
        ("ddn-builtin", "'builtin' is a name of ddn itself"),
    ],
)
def test_names_that_a_plugin_cannot_have(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=re.escape(message)):
        write_plugin(name)
    assert list(tmp_path.iterdir()) == []


def test_a_new_plugin_overwrites_nothing(tmp_path, monkeypatch, entries):
    monkeypatch.chdir(tmp_path)
    write_plugin("ddn-one")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ArgumentError, match="ddn-one is not empty"):
        write_plugin("one")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(ArgumentError, match=re.escape("plugin 'acme' is installed already (ddn-acme 1.2)")):
        write_plugin("acme")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cannot be written"):
        write_plugin("two", tmp_path / "file" / "inside")


# Import cost


LIGHT = {
    "the help": ["--help"],
    "a config with errors": ["check", "bad.toml"],
    "a config without a problem": ["check", "good.toml"],
    "the plugins": ["plugins"],
    "a kind": ["plugins", "show", "levenberg-marquardt"],
    "the schema": ["schema"],
    "a new plugin": ["new-plugin", "three"],
}


def test_torch_is_not_imported_before_it_is_needed(tmp_path):
    """Nor are BackPACK, NumPy or Matplotlib; and none of the strategies' methods is needed to know their fields."""
    groups = '[[groups]]\nparams = ["*"]\ncriterion = { kind = "bulk-edge" }\ndamping = { kind = "bootstrap" }\n'
    (tmp_path / "good.toml").write_text(groups)
    (tmp_path / "bad.toml").write_text(groups.replace("bulk", "bulky"))
    heavy = ["torch", "numpy", "backpack", "matplotlib", "sklearn"]
    code = (
        "import sys\nfrom ddn_core.cli import main\n"
        f"for name, arguments in {LIGHT!r}.items():\n"
        "    sys.argv[1:] = arguments\n"
        "    try:\n        main()\n    except SystemExit as end:\n        print(end.code)\n"
        f"    print(name, 'imported', sorted(set({heavy}) & set(sys.modules)))\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    for name in LIGHT:
        assert f"{name} imported []\n" in result.stdout, result.stdout[-500:] + result.stderr
    assert "groups.0.criterion.kind: no criterion named 'bulky-edge'. Did you mean 'bulk-edge'?" in result.stderr


def test_a_plugin_that_is_not_mentioned_is_not_imported(site, tmp_path):
    (tmp_path / "good.toml").write_text(
        '[[groups]]\nparams = ["*"]\ncriterion = { kind = "all" }\ndamping = { kind = "constant" }\n'
    )
    code = "import sys; from ddn_core.config import load_config; load_config('good.toml'); print('acme_ddn' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
