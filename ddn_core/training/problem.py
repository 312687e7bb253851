"""The problem of a config, loaded and checked: model, loss and batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import Module

from ddn_core.config import Config
from ddn_core.config.grouping import Assignment, assign_parameters
from ddn_core.errors import ConfigError, PluginError
from ddn_core.plugins.containment import contained
from ddn_core.plugins.messages import error_text
from ddn_core.plugins.problem import Batches, ProblemParts
from ddn_core.training.randomness import seed_everything


def checked_batches(batches: Batches, config: Config) -> Batches:
    """Yield the batches of a problem, after checking that each is a pair of tensors.

    Raises:
        PluginError: A batch is not a pair of tensors.
    """
    for batch in _without_exit(batches, config):
        if not isinstance(batch, tuple | list) or [type(item) for item in batch] != [torch.Tensor, torch.Tensor]:
            raise PluginError(f"{problem_label(config)} gave a batch that is not a pair of tensors (inputs, targets).")
        inputs, targets = batch
        yield inputs, targets


def _without_exit(batches: Batches, config: Config) -> Iterator[Any]:
    """Yield the batches of a problem; a `SystemExit` in them, which would end the command, is an error.

    Raises:
        PluginError: The problem raised `SystemExit`.
    """
    try:
        yield from batches
    except SystemExit as error:
        raise PluginError(f"{problem_label(config)} failed to give a batch: {error_text(error)}") from error


def problem_label(config: Config) -> str:
    """Return the label of the problem, for error messages."""
    return config.problem.label() if config.problem is not None else "the problem"


def load_problem(config: Config, source: str) -> ProblemParts:
    """Seed all generators and load the problem of a config.

    Raises:
        ConfigError: The config has no problem.
        PluginError: The problem failed to load.
    """
    if config.problem is None:
        raise ConfigError(f"{source}: problem: is missing; add a [problem] table with a kind, such as 'digits-mlp'")
    seed_everything(config.training.seed)
    label = config.problem.label()
    try:
        with contained(keep_random_state=False):  # the seed of the config decides about random numbers
            parts = config.problem.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: nothing has been done
        raise PluginError(f"{label} failed to load: {error_text(error)}") from error
    if not isinstance(parts, ProblemParts):
        raise PluginError(f"{label}: `load` returned a {type(parts).__name__}; expected ProblemParts.")
    for name in ("model", "loss_function"):
        if not isinstance(getattr(parts, name), Module):
            raise PluginError(
                f"{label}: {name} is a {type(getattr(parts, name)).__name__}; expected a torch.nn.Module."
            )
    return parts


def model_assignment(config: Config, model: Module) -> tuple[Assignment, list[str]]:
    """Return the parameters of each group, and a line for each reason why the groups do not fit the model."""
    parameters = dict(model.named_parameters())
    assignment = assign_parameters(list(parameters), [group.params for group in config.groups])
    needed = [name for name, parameter in parameters.items() if parameter.requires_grad]
    theirs = config.fallback is not None or config.optimizer is not None
    return assignment, assignment.problems([] if theirs else needed)
