"""Selection of the cases of a part; a quick run uses small problems, to test the benchmark itself."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from benchmarks.architectures import PROBLEMS
from benchmarks.cases import Case, comparison_cases
from benchmarks.settings import Settings

QUICK_PROBLEMS = ("mlp-64", "2c2d")
_QUICK_SAMPLES = 2


def cases_of(settings: Settings, within: str = "*", usual: str = "*") -> list[Case]:
    """Return the cases of the comparison that a part measures.

    Args:
        settings: Settings of the run; their glob selects cases.
        within: Glob that all cases of the part must match.
        usual: Glob to use if the settings have none.
    """
    problems = QUICK_PROBLEMS if settings.quick else PROBLEMS
    cases = [case for case in comparison_cases(settings.pattern or usual, problems) if fnmatchcase(case.name, within)]
    return [replace(case, samples=_QUICK_SAMPLES) for case in cases] if settings.quick else cases
