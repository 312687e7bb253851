"""The optimizer: a `torch.optim.Optimizer` around the engine.

One file each::

    optimizer.py    DirectionalDampedNewton: the class that a user sees
    settings.py     settings: from a preset, a config or tables
    parameters.py   from globs or tensors to torch's parameter groups
    passes.py       the backward passes between two steps
    step_loop.py    the tries of one step: plan, apply, keep or undo, report
    planning.py     the planned update of a group: engine's step, momentum, clips, decoupled decay
    reuse.py        directions that are kept for several steps, and fresh gradients along them
    fallback.py     parameters outside of all groups, updated by an optimizer of torch
    update.py       applies the planned updates of all groups, or of none, and undoes them
    going_back.py   goes back to the parameters before the last step
    report.py       report of a step
    outcomes.py     outcomes that strategies observe
    draws.py        random numbers that a closure draws again
    divergence.py   losses that diverge, and the warning about them
    stopping.py     rules that end a training
    state.py        the part of `state_dict` beyond torch's
"""

from ddn_core.optim.draws import Draws
from ddn_core.optim.fallback import torch_optimizer
from ddn_core.optim.optimizer import DirectionalDampedNewton
from ddn_core.optim.report import StepReport
from ddn_core.optim.stopping import Stopping, StopReason

__all__ = ["DirectionalDampedNewton", "Draws", "StepReport", "StopReason", "Stopping", "torch_optimizer"]
