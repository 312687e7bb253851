"""Built-in problems, one per file."""

from ddn_core.api import Problem
from ddn_plugins.problems.digits_autoencoder import DigitsAutoencoder
from ddn_plugins.problems.digits_cnn import DigitsCnn
from ddn_plugins.problems.digits_mlp import DigitsMlp
from ddn_plugins.problems.image_folder import ImageFolder
from ddn_plugins.problems.regression_1d import Regression1d
from ddn_plugins.problems.sinc import Sinc
from ddn_plugins.problems.spirals import Spirals

ALL: list[type[Problem]] = [
    DigitsMlp,
    DigitsCnn,
    DigitsAutoencoder,
    Regression1d,
    Sinc,
    Spirals,
    ImageFolder,
]
"""All classes, in the order of `ddn plugins`."""
