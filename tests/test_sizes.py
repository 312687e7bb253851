"""Tables that are nested too deeply, and numbers that no machine can hold, are errors with their path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import nn

from ddn_core import DirectionalDampedNewton, EighComputation
from ddn_core.api import AnyDamping
from ddn_core.config import load_config, parse_config
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.plugins.sizes import DEEPEST, depth_faults

GROUP = {"params": ["*"], "criterion": "all", "damping": 1.0}
HUGE = 10**400


def nested(depth):
    """Return dampings inside of each other."""
    damping = {"kind": "constant"}
    for _ in range(depth):
        damping = {"kind": "scale", "of": damping, "factor": 1.0}
    return damping


@pytest.mark.parametrize("depth", [DEEPEST, 300, 5000])
def test_combinators_that_are_nested_too_deeply(depth):
    with pytest.raises(
        ConfigError, match=r"groups\.0\.damping\.of\.of\.of.*: tables are nested too deeply, in more than"
    ):
        parse_config({"groups": [{**GROUP, "damping": nested(depth)}]})
    parameters = [nn.Parameter(torch.ones(2))]
    with pytest.raises(ConfigError, match=r"group 0, damping: of\.of\.of.*: tables are nested too deeply"):
        DirectionalDampedNewton(parameters, [{"params": parameters, "criterion": "all", "damping": nested(depth)}])


def test_the_deepest_table_that_is_allowed_works():
    """It is read, written, saved and stepped with."""
    depth = DEEPEST - 4  # the damping of a group is three levels down
    config = parse_config({"groups": [{**GROUP, "damping": nested(depth)}]})
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = DirectionalDampedNewton(model.named_parameters(), config)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(F.mse_loss(model(torch.randn(4, 3)), torch.randn(4, 2)))
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert str(config.groups[0].damping).count("scale") == depth
    assert parse_config(config.model_dump(mode="json", by_alias=True, exclude_none=True)) == config


def test_objects_that_are_nested_too_deeply():
    damping = TypeAdapter(AnyDamping).validate_python({"kind": "constant"})
    scale = type(TypeAdapter(AnyDamping).validate_python(nested(1)))
    for _ in range(300):
        damping = scale(of=damping, factor=1.0)
    with pytest.raises(ConfigError, match=r"damping: of\.of\.of.*: tables are nested too deeply"):
        DirectionalDampedNewton([nn.Parameter(torch.ones(2))], damping=damping)


def test_a_table_inside_of_itself_ends():
    table = {"kind": "scale", "factor": 1.0}
    table["of"] = table
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_config({"groups": [{**GROUP, "damping": table}]})
    shared = []
    for _ in range(40):
        shared = [shared, shared]  # 2⁴⁰ paths, but 40 lists
    assert depth_faults(shared) == []


DEEP = {
    "tables.json": '{"groups": ' + 900 * '{"a": ' + "1" + 900 * "}" + "}",
    "ignored.json": '{"provenance": ' + 900 * '{"a": ' + "1" + 900 * "}" + "}",
    "lists.json": '{"groups": ' + 900 * "[" + 900 * "]" + "}",
    "deeper.json": '{"groups": ' + 100_000 * "[" + 100_000 * "]" + "}",
    "tables.toml": "groups = " + 900 * "{a = " + "1" + 900 * "}",
    "lists.toml": "groups = " + 100_000 * "[" + 100_000 * "]",
    "keys.toml": ".".join(1000 * ["a"]) + " = 1",
    "head.toml": "[" + ".".join(1000 * ["a"]) + "]",
}


@pytest.mark.parametrize("name", DEEP)
def test_files_that_are_nested_too_deeply(tmp_path, name):
    (tmp_path / name).write_text(DEEP[name], encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"^{name}: .*tables are nested too deeply|^{name}: 1 error\n.*too deeply"
    ) as caught:
        load_config(tmp_path / name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (".".join(20_000 * ["a"]) + "=1", r"--set: a\.a\.a.*the path has 20000 parts. Use at most 50"),
        ("provenance=" + 60 * "{a=" + "1" + 60 * "}", r"provenance\.a\.a.*: tables are nested too deeply"),
        ("training.epochs=" + 20_000 * "[" + 20_000 * "]", r"--set: training\.epochs: '\[.* is not a TOML literal"),
    ],
)
def test_overrides_that_are_nested_too_deeply(tmp_path, override, message):
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(tmp_path / "config.toml", [override])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("table", "path"),
    [
        ({"curvature": {"kind": "ggn-mc", "mc_samples": HUGE}}, "curvature.mc_samples"),
        ({"curvature": {"kind": "ggn-mc", "mc_samples": 10**8}}, "curvature.mc_samples"),
        ({"curvature": {"memory_budget": HUGE}}, "curvature.memory_budget"),
        ({"curvature": {"subsampling_ggn": [0, HUGE]}}, "curvature.subsampling_ggn.1"),
        ({"training": {"epochs": HUGE}}, "training.epochs"),
        ({"training": {"evaluate_every": 2**63}}, "training.evaluate_every"),
        ({"step": {"attempts": HUGE}}, "step.attempts"),
        ({"step": {"attempts": 10**6}}, "step.attempts"),
        ({"record": {"directions": HUGE}}, "record.directions"),
        ({"groups": [{**GROUP, "every": HUGE}]}, "groups.0.every"),
        ({"groups": [{**GROUP, "lr": HUGE}]}, "groups.0.lr"),
        ({"groups": [{**GROUP, "damping": HUGE}]}, "groups.0.damping"),
        ({"groups": [{**GROUP, "criterion": {"kind": "top-k", "k": HUGE}}]}, "groups.0.criterion.k"),
        ({"problem": {"kind": "digits-mlp", "hidden": [10**7]}}, "problem.hidden.0"),
        ({"problem": {"kind": "digits-mlp", "batch_size": HUGE}}, "problem.batch_size"),
        ({"problem": {"kind": "digits-cnn", "channels": [8, 10**9]}}, "problem.channels.1"),
        ({"problem": {"kind": "sinc", "samples": 10**12}}, "problem.samples"),
        ({"problem": {"kind": "image-folder", "path": ".", "image_size": 10**6}}, "problem.image_size"),
        ({"provenance": {"a": -HUGE}}, "provenance.a"),
    ],
)
def test_numbers_without_sense(table, path):
    with pytest.raises(ConfigError, match=rf"^config: 1 error\n  {path.replace('.', '[.]')}: ") as caught:
        parse_config(table)
    assert len(str(caught.value)) < 300


def test_numbers_without_sense_in_python():
    parameters = [nn.Parameter(torch.ones(2))]
    for count in (10**8, HUGE):
        with pytest.raises(ConfigError, match="curvature: mc_samples"):
            DirectionalDampedNewton(parameters, damping=1.0, curvature={"kind": "ggn-mc", "mc_samples": count})
        with pytest.raises(ArgumentError, match=r"the number of Monte-Carlo samples is too large. Use at most 1000000"):
            EighComputation(mc_samples=count)
    with pytest.raises(ConfigError, match="damping"):
        DirectionalDampedNewton(parameters, damping={"kind": "switch", "before": 1.0, "after": 2.0, "at": HUGE})
