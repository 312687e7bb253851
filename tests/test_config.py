"""Config files: what they may say, what an error tells, overrides, globs, round trips."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddn_core.config import load_config, parse_config
from ddn_core.config.grouping import assign_parameters
from ddn_core.config.overrides import apply_overrides
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import ConfigError
from tests.profiles import examples

DIGITS = Path(__file__).parents[1] / "docs" / "examples" / "digits.toml"

DESIGN = """
[curvature]
kind = "ggn"

[[groups]]
params = ["0.*", "2.*"]
criterion = { kind = "top-k", k = 10 }
damping = { kind = "constant", value = 1.0 }

[[groups]]
params = ["*"]
criterion = { kind = "relative-threshold", ratio = 1e-3 }
[groups.damping]
kind = "maximum"
[[groups.damping.of]]
kind = "constant"
value = 1e-2
[[groups.damping.of]]
kind = "relative"
"""


def _write(path, text):
    path.write_text(text)
    return path


def _error(table, source="train.toml"):
    with pytest.raises(ConfigError) as error:
        parse_config(table, source)
    return str(error.value)


def _design(**changes):
    table = tomllib.loads(DESIGN)
    for path, value in changes.items():
        place = table
        *parents, last = path.split("__")
        for key in parents:
            place = place[int(key)] if key.isdecimal() else place[key]
        place[last] = value
    return table


def test_the_design_s_example(tmp_path):
    config = load_config(_write(tmp_path / "train.toml", DESIGN))
    assert config.groups[0].criterion.k == 10
    assert config.groups[0].damping.value == 1.0
    assert [type(damping).kind for damping in config.groups[1].damping.of] == ["constant", "relative"]
    assert config.curvature.kind == "ggn"
    assert config.groups[0].lr == 1.0


def test_json_says_the_same(tmp_path):
    path = _write(tmp_path / "train.json", json.dumps(tomllib.loads(DESIGN)))
    assert load_config(path) == load_config(_write(tmp_path / "train.toml", DESIGN))


def test_error_has_a_line_for_each_place():
    table = _design(groups__1__damping__of__0__kind="constnat", groups__0__criterion__k=0)
    assert _error(table).split("\n") == [
        "train.toml: 2 errors",
        "  groups.0.criterion.k: input should be greater than 0, not 0",
        "  groups.1.damping.of.0.kind: no damping named 'constnat'. Did you mean 'constant'?",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"groups__0__criterion": 1.0},
            'groups.0.criterion: expected a table with a kind, such as { kind = "..." }',
        ),
        (
            {"groups__0__criterion": {"k": 3}},
            "groups.0.criterion.kind: the kind is missing; write the name of a criterion",
        ),
        (
            {"groups__0__criterion": {"kind": 3}},
            "groups.0.criterion.kind: the kind is 3, which is not a name; write the name of a criterion",
        ),
        (
            {"groups__0__criterion": {"kind": "constant"}},
            "groups.0.criterion.kind: no criterion named 'constant'. It is a damping.",
        ),
        (
            {"groups__0__damping": {"kind": "constant", "valeu": 1}},
            "groups.0.damping.valeu: unknown field. Did you mean 'value'?",
        ),
        (
            {"groups__0__damping": {"kind": "constant", "value": float("nan")}},
            "groups.0.damping.value: input should be a finite number, not NaN",
        ),
        (
            {"groups__1__damping__of": []},
            "groups.1.damping.of: list should have at least 1 item after validation, not 0",
        ),
        ({"groups__0__parms": ["*"]}, "groups.0.parms: unknown field. Did you mean 'params'?"),
        ({"groups__0__lr": -1}, "groups.0.lr: input should be greater than 0, not -1"),
        (
            {"curvature": {"kind": "ggn-mcc"}},
            "curvature.kind: input should be 'ggn', 'ggn-mc' or 'ggn-aligned', not 'ggn-mcc'",
        ),
        (
            {"curvature": {"kind": "ggn", "mc_samples": 2}},
            "curvature: mc_samples is set, but kind 'ggn' draws no Monte-Carlo samples; use kind = 'ggn-mc'",
        ),
        (
            {"curvature": {"subsampling_ggn": [0, 0]}},
            "curvature.subsampling_ggn: a number is repeated; list each number once",
        ),
        (
            {"curvature": {"subsampling_grad": [-1]}},
            "curvature.subsampling_grad.0: input should be greater than or equal to 0, not -1",
        ),
        ({"groups__0__rest": "yes"}, 'groups.0.rest: expected true or false, not "yes"'),
        ({"groups__0__rest": 1}, "groups.0.rest: expected true or false, not 1"),
        (
            {"groups__0__incude_complement": True},
            "groups.0.incude_complement: unknown field. Did you mean 'include_complement'?",
        ),
        (
            {"groups__0__rest": True, "groups__0__include_complement": True},
            "groups.0.rest: rest is the former name of include_complement, which this table also has; delete it",
        ),
        ({"traning": {}}, "traning: unknown field. Did you mean 'training'?"),
        ({"groups": None}, "groups: input should be a valid list"),
        ({"groups": [], "preset": "best"}, "preset: input should be 'averaged' or 'least-squares', not 'best'"),
        ({"preset": "averaged"}, "preset: it stands for groups, but the config has groups too; delete one of the two"),
        ({"problem": {"kind": "digits"}}, "problem.kind: no problem named 'digits'. Did you mean 'digits-mlp'?"),
        (
            {"training": {"device": "gpu"}},
            "training.device: string should match pattern '^(cpu|cuda(:\\d+)?)$', not 'gpu'",
        ),
    ],
)
def test_errors(changes, line):
    head, *lines = _error(_design(**changes)).split("\n")
    assert head == "train.toml: 1 error"
    assert lines == [f"  {line}"]


def test_files_that_are_no_config(tmp_path):
    for name, text, message in [
        ("a.toml", "x = ", "is not valid TOML"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", "[]", "the top level is a list"),
        ("a.yaml", "a: 1", "unknown format '.yaml'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(_write(tmp_path / name, text))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes("x = 'ü'".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(tmp_path / "latin.toml")


# --set


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("groups.0.damping.value=1e-3", ("groups", 0, "damping", "value"), 1e-3),
        ("groups.1.damping.of.0.value = 2", ("groups", 1, "damping", "of", 0, "value"), 2),
        ('groups.0.params=["a.*", "b"]', ("groups", 0, "params"), ["a.*", "b"]),
        ("training.epochs=3", ("training", "epochs"), 3),
        ('curvature={kind = "ggn-mc", mc_samples = 2}', ("curvature",), {"kind": "ggn-mc", "mc_samples": 2}),
        ('problem.kind="digits-cnn"', ("problem", "kind"), "digits-cnn"),
        ('groups.0.params.1="x"', ("groups", 0, "params", 1), "x"),
    ],
)
def test_set(override, path, value):
    table = tomllib.loads(DESIGN)
    before = copy.deepcopy(table)
    place = apply_overrides(table, [override])
    for key in path:
        place = place[key]
    assert place == value
    assert table == before


def test_set_of_a_kind_replaces_the_table():
    result = apply_overrides(tomllib.loads(DESIGN), ['groups.0.criterion.kind="all"'])
    assert result["groups"][0]["criterion"] == {"kind": "all"}
    same = apply_overrides(tomllib.loads(DESIGN), ['groups.0.criterion.kind="top-k"'])
    assert same["groups"][0]["criterion"] == {"kind": "top-k", "k": 10}
    then = apply_overrides(
        tomllib.loads(DESIGN), ['groups.0.criterion.kind="threshold"', "groups.0.criterion.value=0.5"]
    )
    assert parse_config(then).groups[0].criterion.value == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("groups.0.lr", "is not an assignment"),
        ("=1", "is not an assignment"),
        ("a..b=1", "is not an assignment"),
        ("groups.0.criterion.kind=all", "'all' is not a TOML literal.*quotes"),
        ("groups.7.lr=1", "groups.7: the list has 2 entries, counted from 0; '7' is not among them"),
        ("groups.first.lr=1", "groups.first: the list has 2 entries"),
        ("groups.0.params.0.x=1", "groups.0.params.0: is '0.\\*', which has nothing inside it"),
        ("groups.0.lr=1\nx=2", "more than one TOML literal"),
        ("groups.0.lr=" + "9" * 5000, "is not a TOML literal"),
        ("groups." + "9" * 5000 + ".lr=1", "is not among them"),
    ],
)
def test_bad_set(override, message):
    with pytest.raises(ConfigError, match=message):
        apply_overrides(tomllib.loads(DESIGN), [override])


def test_numbers_and_depths_that_python_refuses(tmp_path):
    for name, text in [("a.toml", f"x = {'9' * 5000}"), ("a.json", f'{{"x": {"9" * 5000}}}')]:
        with pytest.raises(ConfigError, match="is not valid"):
            load_config(_write(tmp_path / name, text))
    damping = {"kind": "constant"}
    for _ in range(400):
        damping = {"kind": "sum", "of": [damping]}
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_config({"groups": [{"params": ["*"], "criterion": {"kind": "all"}, "damping": damping}]})
    with pytest.raises(ConfigError, match="must be a table"):
        parse_config([1])
    for path in ("training", "curvature"):
        with pytest.raises(ConfigError, match=f"{path}.seed: input should be less than"):
            parse_config({**tomllib.loads(DESIGN), path: {"seed": 2**64}})
    with pytest.raises(ConfigError, match=r"training\.epochs"):
        parse_config({**tomllib.loads(DESIGN), "training": {"epochs": tomllib.loads("x = 2020-01-01")["x"]}})


def test_set_from_a_file(tmp_path):
    path = _write(tmp_path / "train.toml", DESIGN)
    assert load_config(path, ["groups.0.damping.value=0.25"]).groups[0].damping.value == 0.25
    with pytest.raises(ConfigError, match=r"--set: groups.9: the list has 2 entries"):
        load_config(path, ["groups.9.lr=1"])


# globs


def test_first_group_that_names_a_parameter_has_it():
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assignment = assign_parameters(names, [["0.*"], ["*.bias", "nothing.*"], ["*"]])
    assert assignment.members == [["0.weight", "0.bias"], ["2.bias"], ["2.weight"]]
    assert assignment.contested == {"0.bias": [0, 1]}
    assert assignment.idle_globs == [(1, 1, "nothing.*")]
    assert assignment.unassigned == []


def test_unassigned_parameters_and_idle_groups():
    assignment = assign_parameters(["a", "b", "c"], [["a"], ["a"]])
    assert assignment.unassigned == ["b", "c"]
    assert assignment.idle_groups == [1]
    problems = assignment.problems(needed=["a", "b"])  # c is frozen
    assert problems[0].startswith("groups.1.params: all parameters that these globs match belong to earlier groups.")
    assert problems[1].startswith("groups: no group matches b. ")


def test_a_group_whose_globs_match_nothing_is_reported_once():
    assignment = assign_parameters(["a"], [["*"], ["nothing"]])
    assert assignment.idle_globs == [(1, 0, "nothing")]
    assert assignment.idle_groups == []
    assert assignment.problems(needed=["a"]) == [
        "groups.1.params.0: 'nothing' matches no parameter. Correct the glob, or delete it."
    ]


@given(
    st.lists(st.text("ab.", min_size=1, max_size=4), unique=True, max_size=6),
    st.lists(st.lists(st.text("ab.*?", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_every_parameter_is_taken_once_or_told(names, globs):
    assignment = assign_parameters(names, globs)
    taken = [name for group in assignment.members for name in group]
    assert sorted(taken + assignment.unassigned) == sorted(names)
    for group, got in enumerate(assignment.members):
        assert got == [name for name in names if name in got]  # the model's order
        if not got:
            assert group in assignment.idle_groups or any(place[0] == group for place in assignment.idle_globs)


@pytest.mark.parametrize(
    "table",
    [
        {"groups": tomllib.loads(DESIGN)["groups"]},
        {"fallback": {"kind": "sgd", "lr": 0.1}},
    ],
    ids=["groups", "fallback"],
)
def test_an_optimizer_of_torch_excludes_groups_and_fallback(table):
    with pytest.raises(ConfigError, match="optimizer: it moves all parameters; delete groups and fallback"):
        parse_config({"optimizer": {"kind": "adam", "lr": 0.1}, **table})


# round trip


def test_resolved_config_is_a_config_with_all_defaults(tmp_path):
    config = load_config(DIGITS)
    table = resolved_config(config)
    assert table["problem"]["test_fraction"] == 0.2
    assert table["groups"][0]["criterion"] == {"kind": "relative-threshold", "ratio": 1e-3}
    assert table["training"]["dtype"] == "float32"
    provenance = table["provenance"]
    assert set(provenance) == {"python", "ddn", "torch", "backpack", "plugins"}
    assert [plugin["distribution"] for plugin in provenance["plugins"]] == ["ddn-core"]
    again = load_config(_write(tmp_path / "c.json", json.dumps(table)))
    assert again.model_copy(update={"provenance": None}) == config
    assert resolved_config(again) == table


def test_rest_is_read_and_written_as_include_complement():
    config = parse_config(_design(groups__0__rest=True))
    assert [group.include_complement for group in config.groups] == [True, False]
    table = resolved_config(config)
    assert "rest" not in table["groups"][0]
    assert parse_config(table).groups[0].include_complement


# any mutation of a valid config loads, or gives a ConfigError with a path

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["top-k", "constant", "maximum", "all-of", "ggn-mc", "digits-cnn", "a/b", "*", "{}", "{x}", "%s"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["kind", "of", "k", "value"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


@st.composite
def mutations(draw):
    """A valid config, changed in up to three places: values replaced, removed or added."""
    table = tomllib.loads(DIGITS.read_text())
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([path for path in _places(table) if path]))
        place = table
        for key in path[:-1]:
            place = place[key]
        action = draw(st.sampled_from(["replace", "remove", "add", "rename"]))
        if action == "replace":
            place[path[-1]] = draw(VALUES)
        elif action == "remove":
            del place[path[-1]]
        elif action == "add" and isinstance(place, dict):
            place[draw(st.text(max_size=6) | st.sampled_from(["kind", "of", "lr", "params"]))] = draw(VALUES)
        elif action == "rename" and isinstance(place, dict):
            place[f"{path[-1]}x"] = place.pop(path[-1])
        elif isinstance(place, list):
            place.append(draw(VALUES))
        if not any(_places(table)):
            break
    return table


def assert_loads_or_tells(table):
    try:
        parse_config(table, "mutated.toml")
    except ConfigError as error:
        head, *lines = str(error).split("\n  ")
        assert head.startswith("mutated.toml: ")
        assert lines
        key = r'(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*")'
        for line in lines:
            assert re.match(rf"{key}(\.{key})*: .", line), line


@examples(75)
@given(mutations())
def test_any_mutation_loads_or_gives_a_config_error(table):
    assert_loads_or_tells(table)


@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["groups", "problem", "curvature"]), VALUES, max_size=4))
def test_any_table_loads_or_gives_a_config_error(table):
    assert_loads_or_tells(table)


@given(
    st.text(max_size=40)
    | st.builds("{}={}".format, st.sampled_from(["groups.0.lr", "training.epochs", "x.y"]), st.text(max_size=12))
)
def test_any_override_works_or_gives_a_config_error(override):
    with contextlib.suppress(ConfigError):
        assert isinstance(apply_overrides(tomllib.loads(DESIGN), [override]), dict)


@given(st.binary(max_size=60), st.sampled_from([".toml", ".json", ".txt", ""]))
def test_any_file_loads_or_gives_a_config_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert load_config(path).groups  # such as a file of comments, which stands for the default


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"kind": "top-k", "k": "output"},
            "groups.0.criterion.k: input should be 'outputs', or a number, not 'output'",
        ),
        ({"kind": "top-k", "k": -1}, "groups.0.criterion.k: input should be greater than 0"),
        ({"kind": "top-k", "k": "3"}, "groups.0.criterion.k: "),
        ({"kind": "top-k", "k": True}, "groups.0.criterion.k: expected a number, not true"),
    ],
)
def test_fields_of_several_types(table, message):
    group = {"params": ["*"], "criterion": table, "damping": {"kind": "constant"}}
    assert message in _error({"groups": [group]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"first": 1.0, "last": 2.0, "steps": 3}, "groups.0.damping.values: the shape is missing"),
        ({"shape": "linaer"}, "groups.0.damping.values: 'linaer' is not among 'linear', 'cosine', 'exponential'"),
        ({"shape": "linaer"}, "Did you mean 'linear'?"),
        ({"shape": "linear", "first": 1.0, "last": "x", "steps": 3}, "groups.0.damping.values.last: "),
    ],
)
def test_tables_that_are_told_apart_by_a_value(values, message):
    damping = {"kind": "schedule", "of": {"kind": "constant"}, "field": "value", "values": values}
    assert message in _error({"groups": [{"params": ["*"], "criterion": {"kind": "all"}, "damping": damping}]})


def test_the_schema_can_be_named():
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    assert parse_config({"$schema": "./ddn.schema.json", "groups": [group]}).schema_file == "./ddn.schema.json"
    assert "schema: unknown field. Did you mean '$schema'?" in _error({"schema": "x", "groups": [group]})


def test_a_star_stands_for_every_entry_of_a_list():
    from ddn_core.config.overrides import apply_overrides

    table = {"groups": [{"lr": 1.0, "damping": {"kind": "constant", "value": 1.0}}, {"lr": 2.0}], "a": {"*": 1}}
    changed = apply_overrides(table, ["groups.*.lr=0.5", "groups.*.damping.value=3.0", "a.*=2"])
    assert [group["lr"] for group in changed["groups"]] == [0.5, 0.5]
    assert [group["damping"]["value"] for group in changed["groups"]] == [3.0, 3.0]
    assert changed["a"] == {"*": 2}
    assert [group["lr"] for group in table["groups"]] == [1.0, 2.0]
    assert apply_overrides({"groups": []}, ["groups.*.lr=0.5"]) == {"groups": []}
    with pytest.raises(ConfigError, match="'x' is not among them"):
        apply_overrides(table, ["groups.x.lr=1"])
