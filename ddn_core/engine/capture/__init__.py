"""One backward pass to factors.

`backpack.py` notes in a backward pass how each layer was called (`tape.py`). At its end (`finish.py`), `loss.py` gives
the square root of the loss Hessian, `backpropagation.py` propagates its columns through the layers' `jacobians.py` and
makes the factors, and `result.py` is what comes out; `concatenation.py` makes one of several.
"""

from ddn_core.engine.capture.backpack import CurvatureCapture
from ddn_core.engine.capture.backward_pass import WantedParameter
from ddn_core.engine.capture.concatenation import concatenate
from ddn_core.engine.capture.result import Capture
from ddn_core.engine.capture.subsampling import Subsampling

__all__ = ["Capture", "CurvatureCapture", "Subsampling", "WantedParameter", "concatenate"]
