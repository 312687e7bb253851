"""The contract of strategies: one check for each rule, which raises an `AssertionError` if the strategy breaks it.

A check is called with a strategy object, and does not change it.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from torch import Tensor

from ddn_core.api import Criterion, Damping, Directions, Outcome, unit_of
from ddn_core.testing.spectra import (
    changed,
    difficult_directions,
    in_units,
    no_directions,
    outcome_in_units,
    outcomes,
    typical_directions,
)

Strategy = Criterion | Damping
LOSS, PARAM = 2.0**20, 2.0**-8  # powers of four and two: scaling is exact, and so are square roots


def check_is_documented(strategy: Strategy) -> None:
    """The class has a kind and a docstring; each field has a description, and each float has a unit."""
    cls = type(strategy)
    assert cls.kind, f"{cls.__name__} has no kind: class {cls.__name__}(..., kind='<entry point>/<name>')"
    is_documented = cls.__doc__ and cls.__doc__ != cls.__mro__[1].__doc__
    assert is_documented, f"{cls.__name__} has no docstring; `ddn plugins` prints its first line"
    assert cls.summary().endswith("."), (
        f"the first line of {cls.__name__}'s docstring is not a sentence: {cls.summary()!r}"
    )
    for name, field in cls.model_fields.items():
        assert field.description, f"field {name!r} has no description: Field(..., description=...)"
        number = isinstance(getattr(strategy, name), float) or _has_floats(field.annotation)
        assert not number or unit_of(field), f"field {name!r} states no unit: Annotated[float, Unit('loss/param²')]"


def check_table_makes_an_equal_strategy(strategy: Strategy) -> None:
    """The config table makes an equal strategy, directly and through JSON; so do a deep copy and a pickle."""
    table = {name: value for name, value in strategy.table().items() if name != "kind"}
    made = type(strategy).model_validate(table)
    assert made.table() == strategy.table(), f"the table {table} makes another strategy, {made.table()}"
    made = type(strategy).model_validate(json.loads(json.dumps(table)))
    assert made.table() == strategy.table(), f"the table as JSON makes another strategy, {made.table()}"
    assert strategy.model_copy(deep=True).table() == strategy.table(), "a deep copy differs"
    cls = type(strategy)
    if (
        getattr(sys.modules.get(cls.__module__), cls.__qualname__, None) is cls
    ):  # pickle finds classes by module and name
        assert pickle.loads(pickle.dumps(strategy)).table() == strategy.table(), "a pickle differs"


def check_defaults_are_valid(strategy: Strategy) -> None:
    """A strategy with only its required fields is valid and can be called."""
    cls = type(strategy)
    required = {f.alias or name: getattr(strategy, name) for name, f in cls.model_fields.items() if f.is_required()}
    cls.model_validate(required)(typical_directions())


def check_bad_fields_are_refused(strategy: Strategy) -> None:
    """Unknown fields, values out of bounds and values of the wrong type raise errors that name the field."""
    good = {field.alias or name: getattr(strategy, name) for name, field in type(strategy).model_fields.items()}
    for name, value in _bad_values(strategy):
        try:
            type(strategy).model_validate({**good, name: value})
        except ValidationError as refusal:
            if name in [line["loc"][0] for line in refusal.errors() if line["loc"]]:
                continue
            raise AssertionError(f"the error for {name} = {value!r} does not name the field: {refusal}") from refusal
        raise AssertionError(f"the field {name} = {value!r} is accepted")


def check_answers_alike_twice(strategy: Strategy) -> None:
    """The same directions give the same result, because random numbers come from `directions.context.generator`."""
    torch.manual_seed(0)
    first = strategy(typical_directions())
    torch.manual_seed(1)
    _compare(strategy(typical_directions()), first, "a second call returns another result")
    _compare(
        _fresh(strategy)(typical_directions()),
        _fresh(strategy)(typical_directions()),
        "two equal strategies return different results",
    )


def check_keeps_dtype_and_device(strategy: Strategy) -> None:
    """The result has the dtype and the device of the eigenvalues, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        directions = typical_directions(dtype=dtype)
        answer = strategy(directions)
        expected = dtype if isinstance(strategy, Damping) else torch.long
        assert answer.dtype == expected, f"the result is {answer.dtype} for directions of {dtype}"
        assert answer.device == directions.evals.device


def check_changes_no_input(strategy: Strategy) -> None:
    """A call changes none of the tensors of the directions and no field, and neither do later steps."""
    strategy, directions = _fresh(strategy), typical_directions()
    names = ("evals", "evecs", "all_evals", "gammas", "lambdas", "loss_gammas", "loss_lambdas")
    before, table = {name: getattr(directions, name).clone() for name in names}, strategy.table()
    strategy(directions)
    for moment in ("", " after the call"):
        for name, tensor in before.items():
            assert torch.equal(getattr(directions, name), tensor), f"{name} was changed in place{moment}"
        assert strategy.table() == table, f"the fields {table} were changed to {strategy.table()}"
        _make_steps(strategy)


def check_result_stays_as_it_is(strategy: Strategy) -> None:
    """Later steps do not change the tensor or list that `select` or `damp` returned."""
    strategy = _fresh(strategy)
    method: Any = strategy.damp if isinstance(strategy, Damping) else strategy.select
    returned = strategy.guarded(method, typical_directions())
    before = copy.deepcopy(returned)
    _make_steps(strategy)
    is_same = torch.equal(torch.as_tensor(returned), torch.as_tensor(before))
    assert is_same, f"a later step changed what `{method.__name__}` returned; return a copy of what the strategy keeps"


def check_keeps_a_direction(strategy: Strategy) -> None:
    """A criterion keeps a direction of some of the typical and difficult directions; otherwise no step ever moves."""
    if isinstance(strategy, Damping):
        return
    strategy = _fresh(strategy)
    every = [typical_directions(), *difficult_directions().values(), *_after_steps(strategy)]
    assert any(len(strategy(directions)) for directions in every), "`select` never keeps a direction"


def check_takes_difficult_directions(strategy: Strategy) -> None:
    """The strategy accepts no direction, one direction, one sample, equal eigenvalues, no gradient and other limits."""
    for dtype in (torch.float32, torch.float64):
        assert strategy(no_directions(dtype)).shape == (0,), "without directions the result is not empty"
        for name, directions in difficult_directions(dtype).items():
            try:
                strategy(directions)
            except Exception as error:
                raise AssertionError(f"{name}, {dtype}: {error}") from error


def check_scales_with_the_loss(strategy: Strategy) -> None:
    """If the loss is c times as large, dampings are c times as large and the same directions are chosen.

    The check multiplies each field by the factor of its unit.
    """
    _check_units(strategy, loss=LOSS)


def check_scales_with_the_parameters(strategy: Strategy) -> None:
    """If the parameters are a times as large, dampings are 1/a² times as large and the same directions are chosen.

    The check multiplies each field by the factor of its unit.
    """
    _check_units(strategy, param=PARAM)


def check_order_of_samples_does_not_matter(strategy: Strategy) -> None:
    """A permutation of the samples does not change the result."""
    directions = typical_directions()
    order = torch.randperm(len(directions.gammas), generator=torch.Generator().manual_seed(0))
    permuted = changed(directions, gammas=directions.gammas[order], lambdas=directions.lambdas[order])
    _compare(strategy(permuted), strategy(directions), "the order of the samples matters")


def check_sign_of_directions_does_not_matter(strategy: Strategy) -> None:
    """Reversing directions does not change the result, since the sign of an eigenvector is arbitrary."""
    directions = typical_directions()
    signs = torch.ones_like(directions.evals)
    signs[::2] = -1
    _compare(
        strategy(changed(directions, gammas=directions.gammas * signs)),
        strategy(directions),
        "the sign of a direction matters",
    )


def check_shortcuts_are_true(strategy: Strategy) -> None:
    """`leading_directions`, `keeps_all` and `uniform` agree with the results of `select` and `damp`."""
    strategy = _fresh(strategy)
    later = changed(typical_directions(), step=12345)
    for directions in (typical_directions(), typical_directions(count=40, seed=1), later, *_after_steps(strategy)):
        context = strategy.readable(directions.context)
        if isinstance(strategy, Damping):
            if (value := strategy.guarded(strategy.uniform, context)) is not None:
                assert isinstance(value, int | float), f"`uniform` returns {value!r}, which is not a float"
                expected = torch.full_like(directions.evals, value)
                _compare(strategy(directions), expected, "`uniform` and `damp` disagree")
            continue
        chosen = strategy(directions)
        assert not strategy.guarded(strategy.keeps_all) or len(chosen) == len(directions), (
            "`keeps_all` returns True, but `select` does not keep all directions"
        )
        if (leading := strategy.guarded(strategy.leading_directions, context)) is not None:
            assert isinstance(leading, int) and leading >= 0, f"`leading_directions` returns {leading!r}"  # noqa: PT018
            start = max(0, len(directions) - leading)
            part = directions.select(range(start, len(directions)))
            _compare(
                strategy(part) + start, chosen, f"from the {leading} leading directions alone, `select` chooses others"
            )


def check_state_is_saved(strategy: Strategy) -> None:
    """A strategy with the loaded state of another one gives the same results, now and after further steps.

    The state is plain data, which `torch.save` and `torch.load(..., weights_only=True)` can handle.
    """
    first, second = _fresh(strategy), _fresh(strategy)
    directions = typical_directions()
    for outcome in _outcomes(strategy):
        first.notify(outcome)
        second = _fresh(strategy)
        file = io.BytesIO()
        torch.save(first.saved_state(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        _compare(second(directions), first(directions), "after the state was loaded, the result differs")
        first.saved_state()
    for outcome in _outcomes(strategy):
        first.notify(outcome)
        second.notify(outcome)
        _compare(
            second(directions),
            first(directions),
            "after the state was loaded and more steps, the result differs",
        )


def check_copies_share_no_state(strategy: Strategy) -> None:
    """Outcomes that a copy observes do not change the original strategy."""
    first = _fresh(strategy)
    before = first(typical_directions())
    other = first.model_copy(deep=True)
    for outcome in _outcomes(strategy):
        other.notify(outcome)
    _compare(first(typical_directions()), before, "the strategy adapted to an outcome that only its copy observed")


ALL_CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]
"""Every check, in the order of this file."""


def _fresh(strategy: Strategy) -> Any:
    """Return an equal strategy without state."""
    return strategy.in_units()


def _outcomes(strategy: Strategy) -> list[Outcome]:
    """Return outcomes; they contain the loss after the step only if the strategy requires it."""
    is_required = "loss_after" in strategy.all_requirements()
    return [outcome if is_required else replace(outcome, loss_after=None) for outcome in outcomes()]


def _after_steps(strategy: Strategy) -> Iterator[Directions]:
    """Let the strategy observe a few steps, and yield directions after each."""
    for outcome in _outcomes(strategy):
        strategy.notify(outcome)
        yield changed(typical_directions(), step=outcome.step + 1, last=outcome)


def _make_steps(strategy: Strategy) -> None:
    """Let the strategy observe a few steps, and call it after each."""
    for directions in _after_steps(strategy):
        strategy(directions)


def _compare(answer: Tensor, expected: Tensor, complaint: str) -> None:
    """Raise unless two results agree up to rounding; the order of indices does not matter."""
    if not answer.is_floating_point():
        answer, expected = answer.sort().values, expected.sort().values
        assert answer.tolist() == expected.tolist(), f"{complaint}: {answer.tolist()} in place of {expected.tolist()}"
        return
    close = torch.isclose(answer, expected, rtol=1e-6, atol=0)
    first = f"{answer[~close].tolist()[:3]} in place of {expected[~close].tolist()[:3]}"
    assert bool(close.all()), f"{complaint}: for {int((~close).sum())} of {len(close)} directions, first {first}"


def _check_units(strategy: Strategy, loss: float = 1.0, param: float = 1.0) -> None:
    directions = typical_directions()
    try:
        larger, plain = strategy.in_units(loss, param), _fresh(strategy)
    except ValidationError as error:
        raise AssertionError(
            f"with losses {loss:g} and parameters {param:g} times as large, its fields are invalid: {error}. Give a "
            "number with a unit no bounds other than zero, since the unit is arbitrary."
        ) from error
    factor = loss / param**2 if isinstance(strategy, Damping) else 1
    complaint = (
        f"with losses {loss:g} and parameters {param:g} times as large, the result does not scale accordingly (is the "
        "unit of a field wrong, or is a number without unit added to one with unit?)"
    )
    for outcome in [None, *_outcomes(strategy)]:
        if outcome is not None:
            plain.notify(outcome)
            larger.notify(outcome_in_units(outcome, loss, param))
        _compare(larger(in_units(directions, loss, param)), plain(directions) * factor, complaint)


def _has_floats(annotation: Any) -> bool:
    """Return whether a type is `float`, or a list, a tuple or an optional of it."""
    if get_origin(annotation) is Literal:
        return False
    return annotation is float or any(_has_floats(item) for item in get_args(annotation))


def _bad_values(strategy: Strategy) -> list[tuple[str, Any]]:
    """Return names of fields, each with a value that is invalid for it."""
    found: list[tuple[str, Any]] = [("no_such_field", 1)]
    for name, field in type(strategy).model_fields.items():
        name = field.alias or name
        found.append((name, object()))
        if field.annotation not in (int, float):
            continue
        found += [(name, "text"), (name, float("nan")), (name, [1])]
        for bound in field.metadata:
            if isinstance(bound, Gt):
                found.append((name, bound.gt))
            if isinstance(bound, Lt):
                found.append((name, bound.lt))
            if isinstance(bound, Ge):
                found.append((name, bound.ge - 1))  # type: ignore[operator]
            if isinstance(bound, Le):
                found.append((name, bound.le + 1))  # type: ignore[operator]
    return found
