"""Verification and cost of the optimizer's step on a GPU, in less than six minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks.architectures.small import SMALL_MODELS
from benchmarks.measuring.failure import failed
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.verification import verify_models
from benchmarks.parts import steps
from benchmarks.reporting.part import Measurements, Part, Progress
from benchmarks.reporting.summary import Summary, Table, Target, worst_target
from benchmarks.settings import Settings

_TIMED = ("mlp-30", "mlp-784", "2c2d-128", "3c3d-128", "transformer", "default-mlp-64", "default-2c2d")
_QUICK_MODELS, _QUICK_TIMED = ("MLP",), ("mlp-30",)
_ERRORS = {
    "ggn": "GGN, float64",
    "step": "step, float64",
    "ggn to cpu": "GGN, float32 CPU",
    "step to cpu": "step, float32 CPU",
}
_BOUND = 1e-4
_VERIFY_LIMIT, _TIME_LIMIT = 100.0, 36.0
"""Seconds for all models, and for each workload: together less than six minutes."""


def measure(settings: Settings, progress: Progress) -> Measurements:
    """Return the errors of all small models, and the cost of each workload."""
    models = list(_QUICK_MODELS if settings.quick else SMALL_MODELS)
    arguments = {"names": models, "device": settings.device}
    outcome = in_own_process(verify_models, arguments, settings, min(_VERIFY_LIMIT, settings.limit))
    errors = dict.fromkeys(models, outcome) if failed(outcome) else outcome
    measurements: Measurements = []
    for model, found in errors.items():
        measurements.append({"model": model, "errors": found})
        progress(f"{model}: {', '.join(f'{title} {_text(found, key)}' for key, title in _ERRORS.items())}")
    for name in _QUICK_TIMED if settings.quick else _TIMED:
        measurements.append(steps.times_of_workload(name, settings, min(_TIME_LIMIT, settings.limit)))
        progress(steps.progress_line(measurements[-1]))
    return measurements


def summarize(measurements: Measurements) -> Summary:
    """Return a table of errors and a table of costs, and the target."""
    verified = _verified(measurements)
    rows = [[found["model"], *(_text(found["errors"], key) for key in _ERRORS)] for found in verified]
    errors = Table("Relative errors on the GPU", ["model", *_ERRORS.values()], rows)
    costs = steps.steps_table("Cost of a step on the GPU", _timed(measurements))
    return Summary([errors, costs], [_target(verified)])


def _verified(measurements: Measurements) -> list[dict[str, Any]]:
    return [measurement for measurement in measurements if "model" in measurement]


def _timed(measurements: Measurements) -> list[dict[str, Any]]:
    return [measurement for measurement in measurements if "workload" in measurement]


def _text(errors: dict[str, Any], key: str) -> str:
    if failed(errors):
        return str(errors["failure"])
    if key not in errors:
        return "other draws"
    return "not finite" if errors[key] is None else f"{errors[key]:.1e}"


def _target(verified: Sequence[dict[str, Any]]) -> Target:
    wanted = "GPU, GGN and step of each small model: relative error at most 1e-4"
    return worst_target(wanted, {found["model"]: _worst(found["errors"]) for found in verified}, _BOUND, False, "")


def _worst(errors: dict[str, Any]) -> float:
    """Return the largest error, infinite if one is not finite or the model failed."""
    if failed(errors):
        return float("inf")
    return max(float("inf") if error is None else float(error) for error in errors.values())


def draw(measurements: Measurements) -> dict[str, Figure]:
    """Return a figure of the times."""
    return steps.draw(_timed(measurements))


PART = Part(
    name="cuda",
    title="On a GPU",
    text=(
        "`python -m benchmarks cuda` takes less than six minutes. First, it computes GGN and step of small models in "
        "float32 on the GPU, and compares them with dense float64 matrices and with the engine's float32 results on "
        "the CPU. The dense Monte-Carlo GGN has the targets that the GPU drew; its result is not compared with that "
        "of the CPU, which draws others. These models run without TensorFloat-32; the timed steps have torch's "
        "default. Then a step of `DirectionalDampedNewton` and a step of `torch.optim.SGD` take turns, and each is "
        "timed until the GPU has finished its work. Memory is the peak of torch's allocator above its level before "
        "the step. Calls are operations of aten in one step, reads are those that return a number to Python, and "
        "waits are what torch reports as synchronizations (`set_sync_debug_mode`)."
    ),
    measure=measure,
    summarize=summarize,
    draw=draw,
    needs_gpu=True,
)
