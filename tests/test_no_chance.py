"""Tests and documentation give the same numbers each time: rules that the source has to keep, one test for each."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.profiles import PROFILE

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "docs" / "examples").glob("*.py"))
DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial|poisson)"
    r"|(np|numpy)\.random\.(?!default_rng|seed|Generator)\w+"
    r"|random\.(?!Random|seed)\w+"
)
SEEDS = re.compile(r"(torch\.(random\.)?manual_seed|(np|numpy)\.random\.seed|random\.seed)")


@cache
def parsed(source):
    """Return the syntax tree of a source, which several rules look at."""
    return ast.parse(source)


@cache
def called(node):
    """Return the name of what is called, such as `torch.randn`."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def draws(tree):
    """Yield the calls that draw from a generator which every test shares."""
    for node in ast.walk(tree):
        if DRAWS.fullmatch(called(node)) and not any(keyword.arg == "generator" for keyword in node.keywords):
            yield node


def seeds(tree):
    return [node for node in ast.walk(tree) if SEEDS.fullmatch(called(node))]


def unseeded_in_properties(source):
    """Return the lines of draws in property tests that come before any seed which the test was given."""
    found = []
    for function in ast.walk(parsed(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        decorators = [called(decorator) for decorator in function.decorator_list] + [
            ast.unparse(decorator) for decorator in function.decorator_list
        ]
        if not any(re.search(r"(^|\.)(given|composite)$", name) for name in decorators):
            continue
        chosen = [node.lineno for node in seeds(function) if not isinstance(node.args[0], ast.Constant)]
        found += [node.lineno for node in draws(function) if node.lineno < min(chosen, default=10**9)]
    return found


def unseeded_at_import(source):
    """Return the lines of draws that run when the module is imported, where no fixture has seeded anything."""

    def outside_of_functions(node):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from outside_of_functions(child)

    nodes = outside_of_functions(parsed(source))
    return [
        node.lineno
        for node in nodes
        if DRAWS.fullmatch(called(node)) and not any(keyword.arg == "generator" for keyword in node.keywords)
    ]


def generators_without_seed(source):
    """Return the lines where a generator is made whose seed is the time, or the same unknown number."""
    tree = parsed(source)
    seeded = {
        id(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node).endswith(".manual_seed")
    }
    makers = re.compile(
        r"random\.Random|(np|numpy)\.random\.default_rng|torch\.Generator|torch\.seed|random\.SystemRandom"
    )
    return [
        node.lineno
        for node in ast.walk(tree)
        if makers.fullmatch(called(node)) and not node.args and id(node) not in seeded
    ]


def waits(source):
    """Return the lines that wait for a time."""
    return [node.lineno for node in ast.walk(parsed(source)) if called(node) in ("time.sleep", "sleep")]


def unseeded_in_a_script(source):
    """Return the lines of draws that come before the first seed."""
    tree = parsed(source)
    first = min((node.lineno for node in seeds(tree)), default=10**9)
    return [node.lineno for node in draws(tree) if node.lineno < first]


def unseeded_in_a_page(source):
    """Return the lines, counted in the Python blocks of a page, of draws that come before the first seed."""
    return unseeded_in_a_script("\n".join(re.findall(r"^```python\n(.*?)^```", source, re.DOTALL | re.MULTILINE)))


def complaints(rule, paths):
    return [f"{path.relative_to(ROOT)}:{line}" for path in paths for line in rule(path.read_text(encoding="utf-8"))]


def test_property_tests_draw_from_seeds_that_hypothesis_chose():
    assert complaints(unseeded_in_properties, TESTS) == []


def test_nothing_is_drawn_when_a_test_module_is_imported():
    assert complaints(unseeded_at_import, TESTS) == []


def test_hypothesis_draws_the_same_examples_each_time_but_in_the_fuzz_profile():
    assert settings.get_current_profile_name() == PROFILE
    assert settings().derandomize == (PROFILE != "fuzz")
    assert settings().print_blob or settings().derandomize
    assert settings().deadline is None


@pytest.mark.skipif(PROFILE == "fuzz", reason="fuzz draws from the sources of modules, too")
def test_examples_do_not_depend_on_the_modules_that_are_loaded(tmp_path, monkeypatch):
    """Hypothesis knows the numbers in their sources, and would draw them."""
    drawn = []

    @given(st.floats())
    def property_test(number):
        drawn.append(number)

    property_test()
    first = [float.hex(number) for number in drawn]
    (tmp_path / "module_with_numbers.py").write_text("\n".join(f"N{k} = {k}.125" for k in range(1000)))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("module_with_numbers")
    drawn.clear()
    property_test()
    del sys.modules["module_with_numbers"]
    assert [float.hex(number) for number in drawn] == first


def test_generators_have_seeds():
    assert complaints(generators_without_seed, [*TESTS, *SCRIPTS]) == []


def test_no_test_waits_for_a_time():
    assert complaints(waits, TESTS) == []


def test_documentation_that_draws_sets_a_seed_first():
    assert complaints(unseeded_in_a_page, PAGES) == []
    assert complaints(unseeded_in_a_script, SCRIPTS) == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (
            unseeded_in_properties,
            "@given(st.integers())\ndef test(n):\n    torch.manual_seed(0)\n    torch.randn(n)",
            "@given(st.integers())\ndef test(n):\n    torch.manual_seed(n)\n    torch.randn(n)",
        ),
        (
            unseeded_in_properties,
            "@st.composite\ndef problems(draw):\n    return np.random.rand(3)",
            "@st.composite\ndef problems(draw):\n    return torch.rand(3, generator=draw(generators))",
        ),
        (unseeded_at_import, "X = [torch.rand(3)]", "X = lambda: torch.rand(3)"),
        (generators_without_seed, "rng = random.Random()", "rng = random.Random(0)"),
        (generators_without_seed, "torch.Generator()", "torch.Generator('cpu').manual_seed(0)"),
        (
            unseeded_in_a_page,
            "```python\ntorch.rand(3)\n```",
            "```python\ntorch.manual_seed(0)\ntorch.rand(3)\n```",
        ),
        (waits, "time.sleep(1)", "time.monotonic()"),
    ],
)
def test_the_rules_find_what_they_forbid(rule, bad, good):
    assert rule(bad) != []
    assert rule(good) == []
