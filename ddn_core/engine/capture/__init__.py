"""One backward pass to factors.

`loss.py` gives the square root of the loss Hessian, BackPACK (through `backpack.py`) propagates it back, `layers.py`
turns what reaches a layer into factors, and `result.py` is what comes out.
"""

from ddn_core.engine.capture.backpack import CurvatureCapture
from ddn_core.engine.capture.result import Capture

__all__ = ["Capture", "CurvatureCapture"]
