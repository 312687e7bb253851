"""Built-in problems, one per file."""

from ddn_core.api import Problem
from ddn_plugins.problems.digits_cnn import DigitsCnn
from ddn_plugins.problems.digits_mlp import DigitsMlp

ALL: list[type[Problem]] = [
    DigitsMlp,
    DigitsCnn,
]
"""In the order in which they are listed."""
