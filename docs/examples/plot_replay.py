"""
Strategies on recorded curvature
================================

``ddn train --record`` writes the curvature of some steps. You can then try any criterion and damping on these steps in
milliseconds, without a model and without data. A small trace of a real run comes with `ddn`: a network on the digits,
early, in the middle and late in its training.
"""

# %%
# A few lines are enough. The first row of the table shows the choices of the run itself.

from ddn_core.testing import digits_trace
from ddn_core.traces import replay

candidates = {
    "constant": {"kind": "constant", "value": 0.05},
    "noise": {"kind": "gradient-noise"},
    "top 10": ({"kind": "top-k", "k": 10}, {"kind": "constant", "value": 0.05}),
}
replay(digits_trace(), candidates)

# %%
# *Predicted* is the decrease of the loss by the quadratic model of the same samples from which the step was computed.
# It always favours the weaker damping. *Expected* is the decrease on held-out samples: the step, with its directions,
# is computed from one half of the batch, and evaluated with the slope and the curvature of the other half. A wide gap
# between the two shows that a strategy follows noise.

import matplotlib.pyplot as plt

from ddn_core.plots import candidate_dampings, candidate_decreases

result = replay(digits_trace(), candidates)
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
candidate_dampings(result, step=30, ax=left)
_ = candidate_decreases(result, ax=right)

# %%
# A new strategy is a class with one method; see :doc:`/plugins`. You can replay it like any other.

from torch import Tensor, full_like

from ddn_core.api import Damping, Directions


class Median(Damping, kind="mine/median"):
    """Damp by the median of the eigenvalues."""

    def damp(self, directions: Directions) -> Tensor:
        """Return the median eigenvalue as the damping of every direction."""
        return full_like(directions.evals, float(directions.evals.median()))


for row in replay(digits_trace(), {"median": Median()}).rows():
    print(f"step {row['step']:>3}, {row['candidate']:>8}: ", end="")
    print(f"predicted {row['predicted_decrease']:.4f}, expected {row['expected_decrease']:.4f}")
