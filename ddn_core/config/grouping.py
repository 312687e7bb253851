"""Assignment of parameters to groups by globs on their names; a parameter belongs to the first group that matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Assignment:
    """Assignment of parameters to groups.

    Attributes:
        members: For each group the names of its parameters, in the order of the model.
        unassigned: Names that no group matches.
        contested: For each name that several groups match by a glob other than `*`, these groups; the name belongs to
            the first one.
        idle_globs: Group, position in `params`, and text of each glob that matches no name.
        idle_groups: Groups without parameters, because all that they match belong to earlier groups.
    """

    members: list[list[str]]
    unassigned: list[str]
    contested: dict[str, list[int]]
    idle_globs: list[tuple[int, int, str]]
    idle_groups: list[int]

    def problems(self, needed: Sequence[str]) -> list[str]:
        """Return a line, with a path into the config, for each mistake in the groups.

        Args:
            needed: Names of the parameters that must be in a group: those that are not frozen.
        """
        lines = [
            f"groups.{group}.params.{place}: {glob!r} matches no parameter. Correct the glob, or delete it."
            for group, place, glob in self.idle_globs
        ]
        lines += [
            f"groups.{group}.params: all parameters that these globs match belong to earlier groups. Delete the group, "
            "or move it up."
            for group in self.idle_groups
        ]
        if left := [name for name in self.unassigned if name in set(needed)]:
            lines.append(
                f'groups: no group matches {", ".join(left)}. Add a last group with params = ["*"], or freeze these '
                "parameters with requires_grad_(False)."
            )
        return lines


def assign_parameters(names: Sequence[str], globs: Sequence[Sequence[str]]) -> Assignment:
    """Return the assignment of parameters to groups.

    Args:
        names: Names of the model's parameters.
        globs: The globs of each group.
    """
    matching = {
        name: [group for group, patterns in enumerate(globs) if any(fnmatchcase(name, glob) for glob in patterns)]
        for name in names
    }
    named = {
        name: [group for group in groups if any(glob != "*" and fnmatchcase(name, glob) for glob in globs[group])]
        for name, groups in matching.items()
    }
    members: list[list[str]] = [[] for _ in globs]
    for name, groups in matching.items():
        if groups:
            members[groups[0]].append(name)
    idle_globs = [
        (group, place, glob)
        for group, patterns in enumerate(globs)
        for place, glob in enumerate(patterns)
        if not any(fnmatchcase(name, glob) for name in names)
    ]
    idle = {group for group, _, _ in idle_globs}
    return Assignment(
        members=members,
        unassigned=[name for name, groups in matching.items() if not groups],
        contested={name: groups for name, groups in named.items() if len(groups) > 1},
        idle_globs=idle_globs,
        idle_groups=[group for group, names_of in enumerate(members) if not names_of and group not in idle],
    )
