"""From a loss to factors: the capture of one backward pass.

During the backward pass, `backpack.py` records the call of each layer (`tape.py`). At the end of the pass, `finish.py`
makes the capture: `loss.py` computes the square root of the loss Hessian, and `backpropagation.py` propagates its
columns through the layers' transposed Jacobians (`jacobians.py`) and makes the factors. `result.py` has the result,
`Capture`, and `concatenation.py` combines several captures into one.
"""

from ddn_core.engine.capture.backpack import CurvatureCapture
from ddn_core.engine.capture.backward_pass import WantedParameter
from ddn_core.engine.capture.concatenation import concatenate
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.subsampling import Subsampling

__all__ = ["Capture", "CurvatureCapture", "Subsampling", "WantedParameter", "concatenate"]
