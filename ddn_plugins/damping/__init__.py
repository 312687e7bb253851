"""Built-in dampings, one per file."""

from ddn_core.api import Damping
from ddn_plugins.damping.bootstrap import Bootstrap
from ddn_plugins.damping.clamp import Clamp
from ddn_plugins.damping.clip import Clip
from ddn_plugins.damping.constant import Constant
from ddn_plugins.damping.cubic import Cubic
from ddn_plugins.damping.evidence import Evidence
from ddn_plugins.damping.fresh_batch import FreshBatch
from ddn_plugins.damping.gradient_noise import GradientNoise
from ddn_plugins.damping.gradient_norm import GradientNorm
from ddn_plugins.damping.levenberg_marquardt import LevenbergMarquardt
from ddn_plugins.damping.marquardt import Marquardt
from ddn_plugins.damping.maximum import Maximum
from ddn_plugins.damping.minimum import Minimum
from ddn_plugins.damping.relative import Relative
from ddn_plugins.damping.scale import Scale
from ddn_plugins.damping.schedule import Schedule
from ddn_plugins.damping.smooth_pseudo_inverse import SmoothPseudoInverse
from ddn_plugins.damping.snr_cutoff import SnrCutoff
from ddn_plugins.damping.sum import Sum
from ddn_plugins.damping.switch import Switch
from ddn_plugins.damping.trust_region import TrustRegion

ALL: list[type[Damping]] = [
    Constant,
    Relative,
    Marquardt,
    LevenbergMarquardt,
    FreshBatch,
    TrustRegion,
    Cubic,
    GradientNorm,
    GradientNoise,
    SnrCutoff,
    SmoothPseudoInverse,
    Bootstrap,
    Clip,
    Evidence,
    Schedule,
    Maximum,
    Minimum,
    Sum,
    Scale,
    Clamp,
    Switch,
]
"""All classes, in the order of `ddn plugins`."""
