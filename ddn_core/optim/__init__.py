"""The optimizer: a `torch.optim.Optimizer` around the engine.

One file each::

    optimizer.py    DirectionalDampedNewton: what a user sees
    passes.py       the backward passes between two steps
    raw.py          the damped Newton step of a group, before momentum and clips
    planning.py     what a group will do, without doing it: momentum, clips, decoupled decay
    reuse.py        directions that are kept for several steps, and fresh gradients along them
    fallback.py     parameters that no group takes, moved by an optimizer of torch
    trial.py        moving parameters, all or none, and taking it back
    report.py       what a step did
    outcomes.py     what strategies learn of it
    parameters.py   from globs or tensors to torch's parameter groups
    state.py        the strategies' part of `state_dict`
"""

from ddn_core.optim.fallback import torch_optimizer
from ddn_core.optim.optimizer import DirectionalDampedNewton
from ddn_core.optim.report import StepReport

__all__ = ["DirectionalDampedNewton", "StepReport", "torch_optimizer"]
