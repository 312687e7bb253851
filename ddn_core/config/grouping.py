"""Which group takes which parameter: globs on names, and the first group that names a parameter has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Assignment:
    """Which group takes which parameter.

    Attributes:
        taken: For each group the names that it takes, in the order of the model.
        untaken: Names that no group takes.
        contested: For each name that a later group names too, by a glob other than `*`, the groups, first the one
            that has it.
        idle_globs: Group, place and text of each glob that matches no name.
        idle_groups: Groups all of whose names belong to earlier groups.
    """

    taken: list[list[str]]
    untaken: list[str]
    contested: dict[str, list[int]]
    idle_globs: list[tuple[int, int, str]]
    idle_groups: list[int]

    def problems(self, needed: Sequence[str]) -> list[str]:
        """Return a line, with a path into the config, for all that keeps the groups from being used.

        Args:
            needed: Names of the parameters that must be in some group: those that are not frozen.
        """
        lines = [
            f"groups.{group}.params.{place}: {glob!r} matches no parameter" for group, place, glob in self.idle_globs
        ]
        lines += [
            f"groups.{group}.params: takes no parameter; all that it names belong to earlier groups"
            for group in self.idle_groups
        ]
        if left := [name for name in self.untaken if name in set(needed)]:
            lines.append(
                f'groups: no group takes {", ".join(left)}; add a group with params = ["*"] for the rest, or freeze '
                "them with requires_grad_(False)"
            )
        return lines


def assign_parameters(names: Sequence[str], globs: Sequence[Sequence[str]]) -> Assignment:
    """Return which group takes which parameter.

    Args:
        names: Names of the model's parameters.
        globs: For each group its globs.
    """
    matching = {
        name: [group for group, patterns in enumerate(globs) if any(fnmatchcase(name, glob) for glob in patterns)]
        for name in names
    }
    named = {
        name: [group for group in groups if any(glob != "*" and fnmatchcase(name, glob) for glob in globs[group])]
        for name, groups in matching.items()
    }
    taken: list[list[str]] = [[] for _ in globs]
    for name, groups in matching.items():
        if groups:
            taken[groups[0]].append(name)
    idle_globs = [
        (group, place, glob)
        for group, patterns in enumerate(globs)
        for place, glob in enumerate(patterns)
        if not any(fnmatchcase(name, glob) for name in names)
    ]
    idle = {group for group, _, _ in idle_globs}
    return Assignment(
        taken=taken,
        untaken=[name for name, groups in matching.items() if not groups],
        contested={name: groups for name, groups in named.items() if len(groups) > 1},
        idle_globs=idle_globs,
        idle_groups=[group for group, got in enumerate(taken) if not got and group not in idle],
    )
