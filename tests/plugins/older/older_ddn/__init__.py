"""A plugin for another version of the API."""

from ddn_core.api import Damping, hookimpl

ddn_api_version = 0


class One(Damping, kind="older/one"):
    """δ_k = 1."""

    def damp(self, directions):
        return 0 * directions.evals + 1


@hookimpl
def ddn_dampings():
    return [One]
