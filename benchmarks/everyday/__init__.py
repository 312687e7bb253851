"""Ordinary problems with which defaults are judged: small, seeded, on data of scikit-learn and of generators.

Nobody tunes anything on the held-out problems. They are looked at once, when the defaults are done.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.everyday import equations, pictures, sequences, tabular
from benchmarks.everyday.problem import EverydayProblem, Samples

DEVELOPMENT: dict[str, Callable[[], EverydayProblem]] = {
    "wrong-labels": tabular.wrong_labels,
    "raw-cancer": tabular.raw_cancer,
    "large-targets": tabular.large_targets,
    "robot-arm": tabular.robot_arm,
    "digits-cnn": pictures.digits_cnn,
    "digits-sigmoid": pictures.digits_sigmoid,
    "digits-dropout": pictures.digits_dropout,
    "digits-batch-norm": pictures.digits_batch_norm,
    "adding": sequences.adding,
    "majority": sequences.majority,
    "cubic-equation": equations.cubic_equation,
}
"""Problems for work on the defaults: functions that return them, by name."""

HELD_OUT: dict[str, Callable[[], EverydayProblem]] = {
    "raw-wine": tabular.raw_wine,
    "wrong-moons": tabular.wrong_moons,
    "small-targets": tabular.small_targets,
    "lorenz": tabular.lorenz,
    "wrong-quantiles": tabular.wrong_quantiles,
    "raw-digits-cnn": pictures.raw_digits_cnn,
    "dropout-friedman": tabular.dropout_friedman,
    "waves": sequences.waves,
    "waves-batch-norm": sequences.waves_batch_norm,
    "recall": sequences.recall,
    "heat-equation": equations.heat_equation,
}
"""Problems that are looked at once: functions that return them, by name."""

SETS = {"development": DEVELOPMENT, "held-out": HELD_OUT, "quick": {"quick": tabular.quick}}
"""Sets of problems by name; the last one tests the benchmark itself."""

__all__ = ["DEVELOPMENT", "HELD_OUT", "SETS", "EverydayProblem", "Samples"]
