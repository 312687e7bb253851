"""Every block of the README and of the documentation pages, run as it stands."""

from __future__ import annotations

import ast
import re
import runpy
import tomllib
import warnings
from contextlib import nullcontext
from pathlib import Path

import matplotlib.pyplot
import pytest
import torch
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.config import parse_config
from ddn_core.config.presets import PRESETS
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import ConfigError
from tests.commands import ddn, forked_trials

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        *("config", "defaults", "engine", "losses", "migration", "models", "optimizer", "plugins", "quickstart"),
        *("replay", "report", "spectrum", "training"),
    )
]
ELSEWHERE = [ROOT / "docs" / "compare.md"]  # where there are runs: test_compare.py


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_python(text, name):
    namespace = {"__name__": "__readme__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks(text, "python"):
            exec(compile(block, name, "exec", dont_inherit=True), namespace)
    return namespace


def test_python_blocks():
    namespace = run_python(README, "README.md")
    optimizer = namespace["optimizer"]
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "0.bias"],
        ["2.weight", "2.bias"],
    ]
    assert namespace["ddn_dampings"]() == [namespace["SpectralFloor"]]
    # «an object of it works at once»
    model, loss_function, (X, y) = namespace["model"], namespace["loss_function"], namespace["loader"][0]
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": namespace["SpectralFloor"]()}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    with optimizer.curvature():
        loss_function(model(X), y).backward()
    optimizer.step()
    report = optimizer.last_step[0]
    # The damping is 1e-3 λ_max - λ_k, so the sum is 1e-3 λ_max up to the rounding of the product, the difference and the sum.
    lowest = 1e-3 * float(report.evals.max())
    assert float((report.evals + report.deltas).min()) >= lowest * (1 - 3 * torch.finfo(report.evals.dtype).eps)


def test_examples_are_as_short_as_promised():
    optimizer, _, plugin, _ = blocks(README, "python")
    loop = optimizer[optimizer.index("optimizer =") :]
    assert len([line for line in optimizer.splitlines() if line.strip()]) <= 15
    assert len(loop.splitlines()) <= 15
    assert len([line for line in plugin.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize(
    "trials",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xdist_group("forked")])],
    ids=["one run", "trials too"],
)
def test_config_example_trains(tmp_path, trials):
    """Every command of the README; `ddn sweep` and `ddn compare` start trials."""
    plugin, config = blocks(README, "toml")
    assert tomllib.loads(plugin)["project"]["entry-points"]["ddn"] == {"acme": "acme_ddn"}
    (tmp_path / "train.toml").write_text(config)
    commands = [line.partition("#")[0].split() for line in "\n".join(blocks(README, "console")).splitlines()]
    ours = [command[1:] for command in commands if command and command[0] == "ddn"]
    assert [command[0] for command in ours] == [
        *(
            "check",
            "estimate",
            "train",
            "sweep",
            "train",
            "replay",
            "compare",
            "report",
            "spectrum",
            "plugins",
            "plugins",
            "schema",
        )
    ]
    trains = [command for command in ours if command[0] == "train"]
    started = [command for command in ours if command[0] in ("sweep", "compare")]
    with forked_trials() if trials else nullcontext():
        for command in [trains[0], *started] if trials else [command for command in ours if command not in started]:
            result = ddn(*command, cwd=tmp_path)
            assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "run.png").exists()


def test_error_example():
    table = tomllib.loads(blocks(README, "toml")[1])
    table["groups"][0]["damping"]["kind"] = "constnat"
    with pytest.raises(ConfigError) as error:
        parse_config(table, "train.toml")
    assert str(error.value) == blocks(README, "text")[0].strip()


def test_what_the_readme_names_is_there():
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert target in targets
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link


def test_presets_are_written_out():
    """The page of the defaults has the tables of each preset, as a config and, for the default, in Python."""
    page = (ROOT / "docs" / "defaults.md").read_text()
    for name, tables in PRESETS.items():
        section = page.split(f"(preset-{name})=")[1]
        written_out = tomllib.loads(blocks(section, "toml")[0])
        assert written_out == tables
        assert resolved_config(parse_config(written_out)) == resolved_config(parse_config({"preset": name}))
    (arguments,) = re.findall(r"groups=(.*),\n    curvature=(.*),\n    step=(.*),\n\)", page, re.DOTALL)
    model = nn.Linear(2, 2)
    groups, curvature, step = map(ast.literal_eval, arguments)
    by_hand = DirectionalDampedNewton(model.named_parameters(), groups=groups, curvature=curvature, step=step)
    default = DirectionalDampedNewton(model.named_parameters())
    assert repr(by_hand) == repr(default)
    assert (by_hand._settings, by_hand._rules) == (default._settings, default._rules)


def test_every_documentation_page_with_code_is_run():
    pages = [page for page in (ROOT / "docs").glob("*.md") if blocks(page.read_text(), "python")]
    assert sorted(pages) == sorted([*PAGES, *ELSEWHERE])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_documentation_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks(page.read_text(), "python")
    run_python(page.read_text(), page.name)


QUICK = {"plot_damped_newton.py", "plot_directional_damping.py"}


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.name, marks=() if path.name in QUICK else pytest.mark.slow)
        for path in sorted((ROOT / "docs" / "examples").glob("*.py"))
    ],
)
def test_examples(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    matplotlib.pyplot.close("all")
    if example.name == "plot_damped_newton.py":
        assert "match" in capsys.readouterr().out
