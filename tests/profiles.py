"""Profiles of hypothesis: the number of examples, and whether they are the same in each run.

`make test` uses the profile `default`: few examples, the same each time. `make test-all` uses `thorough`: more of them,
again the same. `make fuzz` uses `fuzz`: many new ones each time, and a failure prints the decorator that reproduces it.

Hypothesis also draws numbers and texts that stand in the sources of the modules which are loaded. Which ones are, depends
on the tests before, and with several workers on their speed. So only `fuzz` does this.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
_TIMES_AS_MANY = {"default": 1, "thorough": 5, "fuzz": 200}


def load_profile() -> None:
    """Register the profiles, and load the one that the environment names; property tests are decorated after this."""
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # no failure depends on the time taken
    settings.register_profile("default", derandomize=True, database=None, max_examples=50, **common)
    settings.register_profile("thorough", derandomize=True, database=None, max_examples=250, **common)
    settings.register_profile("fuzz", derandomize=False, max_examples=10_000, print_blob=True, **common)
    settings.load_profile(PROFILE)
    if PROFILE != "fuzz":
        providers._get_local_constants = lambda: providers._local_constants  # still empty: nothing has been drawn


def examples(count: int) -> settings:
    """Draw this many examples in `make test`, and more in the other profiles: for a property that takes long to check."""
    return settings(max_examples=count * _TIMES_AS_MANY.get(PROFILE, 1))
