"""From a loss to factors, for any model: the capture of one backward pass.

settings.py      what all passes of an optimizer share (subsampling.py: the choices of samples)
graph.py         nodes and edges from the loss down to the wanted parameters
batch.py         the axis of the samples at the model output
layout.py        which edges keep samples apart, and along which axis (an exact probe)
plan.py          layouts and sites, kept by the signature of the graph
destinations.py  the parameters behind the inputs that samples share
verification.py  one more column shows whether a kept plan still fits
output_root.py   the columns at the model output: a root of the loss Hessian, for the chosen samples
columns.py       autograd's own engine carries columns down the graph
carried.py       carried columns: from the model output to the sites, before the backward pass
recorded.py      recorded columns: the gradients at the sites, in the backward pass itself, times a number
budget.py        operations and bytes, from shapes, before anything is allocated (factor_plan.py: of one factor)
sites.py         rules: what a node makes of columns for an input that samples share
assembly.py      the columns at the sites become factors
completeness.py  the check that nothing of the gradient is missing
result.py        the result, `Capture` (concatenation.py: of several passes as of one)
backward_pass.py calls the above in order, around one backward pass
functional.py    a backward pass with curvature as one call
interception.py  `loss.backward()` inside a block as this call
backpack.py      the front for `with backpack(...)`: the seed's flow
tracing.py       the same graph without data, on torch's meta device
"""

from ddn_core.engine.capture.backpack import CurvatureCapture
from ddn_core.engine.capture.concatenation import concatenate
from ddn_core.engine.capture.destinations import WantedParameter
from ddn_core.engine.capture.functional import capture_loss, captured_backward, captured_gradient
from ddn_core.engine.capture.interception import backward_as_usual, backward_handed_to
from ddn_core.engine.capture.plan import PlanStore
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.settings import CaptureSettings
from ddn_core.engine.capture.subsampling import Subsampling

__all__ = [
    "Capture",
    "CaptureSettings",
    "CurvatureCapture",
    "PlanStore",
    "Subsampling",
    "WantedParameter",
    "backward_as_usual",
    "backward_handed_to",
    "capture_loss",
    "captured_backward",
    "captured_gradient",
    "concatenate",
]
