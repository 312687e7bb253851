"""`ddn schema` says of a config what reading it says: compared by an independent validator."""

from __future__ import annotations

import copy
import json
import random
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ddn_core.config import parse_config
from ddn_core.config.json_schema import config_schema
from ddn_core.errors import ConfigError
from ddn_core.plugins.registry import installed_registry
from tests.commands import ddn
from tests.test_contract import CRITERIA, DAMPINGS

ROOT = Path(__file__).parents[1]
SCHEMA = config_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

BEYOND = (
    "give bounds in order",
    "has no field",
    "cannot be ",
    "give each step one value",
    "which is not installed",
    "is installed: pip install",
    "is not a requirement",
)
"""Errors about two fields together, or about the machine, which no JSON Schema can express."""


def verdict(table):
    """Return whether a config is accepted; `None` where it is refused for what a schema cannot say."""
    try:
        parse_config(copy.deepcopy(table))
    except ConfigError as error:
        lines = str(error).splitlines()[1:]
        return None if all(any(text in line for text in BEYOND) for line in lines) else False
    return True


def test_it_is_a_schema_of_the_newest_draft():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere():
    def references(place):
        if isinstance(place, dict):
            yield from ([place["$ref"]] if "$ref" in place else [])
            for item in place.values():
                yield from references(item)
        elif isinstance(place, list):
            for item in place:
                yield from references(item)

    found = set(references(SCHEMA))
    assert {reference.removeprefix("#/$defs/") for reference in found} <= set(SCHEMA["$defs"])
    assert len(found) > 40


def test_every_field_of_every_kind_is_described():
    for record in installed_registry().plugins():
        for family, kinds in record.components.items():
            for kind, cls in kinds.items():
                definition = SCHEMA["$defs"][f"{family}.{kind.replace('/', '.')}"]
                assert definition["properties"]["kind"]["const"] == kind
                assert definition["description"].startswith(cls.summary())
                assert set(definition["properties"]) == {"kind", *cls.model_fields}
                for name in cls.model_fields:
                    told = definition["properties"][name]
                    assert told["description"], (kind, name)
                    number = {"integer", "number"} & {
                        told.get("type"),
                        *(one.get("type") for one in told.get("anyOf", [])),
                    }
                    assert not number or told["unit"], (kind, name)


def test_units_and_bounds_are_told():
    value = SCHEMA["$defs"]["damping.trust-region"]["properties"]["radius"]
    assert (value["unit"], value["exclusiveMinimum"], value["default"]) == ("param", 0, 1.0)
    fraction = SCHEMA["$defs"]["criterion.energy"]["properties"]["fraction"]
    assert (fraction["unit"], fraction["exclusiveMinimum"], fraction["maximum"]) == ("1", 0, 1)


@pytest.mark.parametrize("table", [*CRITERIA, *DAMPINGS], ids=str)
def test_every_strategy_of_the_tests_is_valid(table):
    family, other = ("criterion", "damping") if table in CRITERIA else ("damping", "criterion")
    group = {"params": ["*"], family: table, other: {"kind": "constant" if other == "damping" else "all"}}
    assert VALIDATOR.is_valid({"groups": [group]})


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/**/*.toml")), ids=lambda path: path.name)
def test_the_examples_are_valid(path):
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(path.read_text()))] == []


JUNK = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    1.5,
    -2.5,
    10.0,
    1e6,
    "",
    "text",
    "auto",
    "outputs",
    "all",
    "1",
    [],
    [1],
    [1, 1],
]
JUNK += [["*"], {}, {"kind": "constant"}, {"kind": "all"}, {"kind": "nonsense"}, {"value": 1.0}, [{"kind": "all"}]]
NAMES = [
    "kind",
    "value",
    "k",
    "of",
    "lr",
    "extra",
    "groups",
    "mc_samples",
    "momentum",
    "nesterov",
    "optimizer",
    "fallback",
    "seed",
    "rest",
    "include_complement",
    "allow",
    "require",
    "$schema",
    "steps",
]


def made(rng):
    """Return a valid config, made at random."""
    dampings, criteria = list(DAMPINGS), list(CRITERIA)
    for _ in range(rng.randrange(3)):
        kind = rng.choice(["maximum", "minimum", "sum"])
        dampings.append({"kind": kind, "of": rng.choices(dampings, k=rng.randint(1, 3))})
        criteria.append({"kind": rng.choice(["all-of", "any-of"]), "of": rng.choices(criteria, k=rng.randint(1, 3))})
    table = {
        "groups": [
            {
                "params": rng.choice([["*"], ["0.*", "1.*"]]),
                "criterion": rng.choice(criteria),
                "damping": rng.choice([dampings[-1], rng.choice(dampings)]),
                **({"lr": rng.choice([0.5, 1])} if rng.random() < 0.3 else {}),
                **({"momentum": 0.5, "nesterov": True, "max_kl": 1e-3} if rng.random() < 0.2 else {}),
                **({rng.choice(["include_complement", "rest"]): True} if rng.random() < 0.3 else {}),
                **({"memory": 0.9, "every": 5, "weight_decay": 1e-3} if rng.random() < 0.2 else {}),
            }
            for _ in range(rng.randint(1, 2))
        ]
    }
    if rng.random() < 0.4:
        table["problem"] = rng.choice(
            [{"kind": "digits-mlp", "hidden": [8]}, {"kind": "digits-cnn", "channels": [2, 3]}]
        )
    if rng.random() < 0.4:
        table["training"] = {"epochs": 3, "dtype": rng.choice(["float32", "float64"]), "device": "cuda:0"}
    if rng.random() < 0.2:
        stop = {"loss": -1.0, "gradient_norm": 1e-6, "patience": 3, "metric": "accuracy", "maximize": True}
        table["training"] = {"on_divergence": "continue", "divergence_factor": 2, "stop": stop}
    if rng.random() < 0.4:
        table["curvature"] = rng.choice(
            [
                {"kind": "ggn-mc", "mc_samples": 2, "seed": 1},
                {"subsampling_grad": [0, 1, 2], "memory_budget": "auto"},
                {"memory_budget": 10**9},
            ]
        )
    if rng.random() < 0.2:
        rule = rng.choice(["shorten", "search"])
        table["step"] = {"on_increase": rule, "attempts": 3, "shrink": 0.25, "on_nonfinite": "skip"}
    if rng.random() < 0.2:
        table["fallback"] = rng.choice([{"kind": "sgd", "lr": 0.1}, {"kind": "adamw", "betas": [0.8, 0.9]}])
    if rng.random() < 0.15:
        table = {key: value for key, value in table.items() if key not in ("groups", "fallback")}
        table["optimizer"] = rng.choice(
            [{"kind": "adam"}, {"kind": "lbfgs", "max_iter": 5}, {"kind": "sgd", "lr": 1.0}]
        )
    if rng.random() < 0.2:
        table["plugins"] = {"allow": ["acme"], "require": ["torch"]}
    return copy.deepcopy(table)


def places(place):
    """Yield every table and list in a config."""
    if isinstance(place, dict | list):
        yield place
        for item in place.values() if isinstance(place, dict) else place:
            yield from places(item)


def mutated(rng, table):
    """Return a config with one change that may make it invalid."""
    place = rng.choice(list(places(table)))
    if isinstance(place, dict):
        keys = list(place)
        match rng.randrange(4):
            case 0 if keys:
                del place[rng.choice(keys)]
            case 1:
                place[rng.choice(NAMES)] = copy.deepcopy(rng.choice(JUNK))
            case 2 if keys:
                place[rng.choice(keys)] = copy.deepcopy(rng.choice(JUNK))
            case _ if keys:
                key = rng.choice(keys)
                value = place[key]
                place[key] = -value if isinstance(value, int | float) else [value]
    elif place and rng.random() < 0.6:
        place[rng.randrange(len(place))] = copy.deepcopy(rng.choice(JUNK))
    else:
        place.append(copy.deepcopy(rng.choice(JUNK)))
    return table


@pytest.mark.parametrize("configs", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_the_schema_and_the_reader_agree_on_generated_configs(configs):
    rng = random.Random(0)
    counts = {True: 0, False: 0, None: 0}
    for number in range(configs):
        table = made(rng)
        for _ in range(number % 3):
            table = mutated(rng, table)
        ours, theirs = verdict(table), VALIDATOR.is_valid(table)
        counts[ours] += 1
        if ours is None:
            assert theirs, f"the schema refuses what only the reader can: {json.dumps(table)}"
        else:
            assert ours == theirs, f"reader {ours}, schema {theirs}: {json.dumps(table)}"
    assert counts[True] > 0.26 * configs
    assert counts[False] > 0.26 * configs
    assert counts[None] < 0.07 * configs


def test_the_command_writes_the_schema(tmp_path):
    printed = ddn("schema").stdout
    assert ddn("schema", "--out", "ddn.schema.json", cwd=tmp_path).returncode == 0
    assert json.loads(printed) == json.loads((tmp_path / "ddn.schema.json").read_text()) == SCHEMA
    refused = ddn("schema", "--out", "no/such/folder.json", cwd=tmp_path)
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
