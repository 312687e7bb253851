"""The tables of `ddn check` and `ddn plugins`, and the text of `ddn schema`."""

from __future__ import annotations

import json
import traceback

from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.table import Table

from ddn_core.cli.terminal import Terminal, lines, say
from ddn_core.config import Config, FirstOrder
from ddn_core.config.json_schema import partial_schema
from ddn_core.plugins.component import Component
from ddn_core.plugins.messages import LONGEST_TEXT, error_text, value_text
from ddn_core.plugins.registry import PluginRecord, Registry
from ddn_core.text import printable, shortened

LONGEST_TRACE = 20_000
"""Largest number of characters of the traceback of a plugin."""


def check_report(config: Config, source: str) -> tuple[RenderableType, list[str]]:
    """Return a table of the parameters of each group, and a line for each reason why the config cannot be used.

    A config without a problem is meant for a model of the user, so the groups cannot be checked against a model.
    """
    if config.problem is None:
        return _without_problem(config, source), []
    from ddn_core.training.problem import load_problem, model_assignment  # here, because it imports torch

    model = load_problem(config, source).model
    parameters = dict(model.named_parameters())
    assignment, problems = model_assignment(config, model)
    table = _table(f"{source}: groups", "group", "parameters", "numbers", "criterion", "damping")
    for index, (group, names) in enumerate(zip(config.groups, assignment.members, strict=True)):
        numbers = sum(parameters[name].numel() for name in names if parameters[name].requires_grad)
        frozen = [name for name in names if not parameters[name].requires_grad]
        names_text = ", ".join(name + (" (frozen)" if name in frozen else "") for name in names) or "none"
        table.add_row(str(index), names_text, str(numbers), str(group.criterion), str(group.damping))
    notes = [
        f"{name} matches groups {', '.join(map(str, groups))}; it belongs to group {groups[0]}"
        for name, groups in assignment.contested.items()
    ]
    left = [name for name in assignment.unassigned if parameters[name].requires_grad]
    return Group(*([table] if config.groups else []), *notes, *_torch_notes(config, left)), problems


def _torch_notes(config: Config, left: list[str]) -> list[str]:
    """Return a line about the parameters that an optimizer of torch updates, if there is one."""
    if config.optimizer is not None:
        return [f"{_phrase(config.optimizer)} of torch updates all parameters"]
    if config.fallback is not None:
        names = ", ".join(left) or "no parameters: the groups have all of them"
        return [f"{_phrase(config.fallback)} of torch updates {names}"]
    return []


def _without_problem(config: Config, source: str) -> RenderableType:
    table = _table(f"{source}: groups", "group", "params", "criterion", "damping")
    for index, group in enumerate(config.groups):
        table.add_row(str(index), ", ".join(group.params), str(group.criterion), str(group.damping))
    return Group(table, "There is no [problem], so the parameters of the groups depend on your own model.")


def broken_report(registry: Registry) -> tuple[str, int]:
    """Return the tracebacks of the plugins that failed to load, and their number."""
    broken = [record for record in registry.plugins() if record.error is not None]
    texts = []
    for record in broken:
        assert record.error is not None
        trace = traceback.format_exception(record.error.__cause__ or record.error)
        texts.append(f"{record.error}\n\n{shortened(''.join(trace), LONGEST_TRACE)}")
    return "\n".join(texts) or "All plugins that may be loaded were loaded.", len(broken)


def plugin_report(registry: Registry) -> RenderableType:
    """Return a table of all strategies and problems, and tables of the plugins that failed or are switched off."""
    table = _table("Strategies and problems", "kind", "family", "what it does", "fields, with defaults", "from")
    broken = _table("Plugins that failed to load (tracebacks: ddn plugins --broken)", "plugin", "from", "error")
    off = _table("Plugins that are switched off", "plugin", "from", "by")
    for record in registry.plugins():
        if record.switched_off is not None:
            off.add_row(record.name, _origin(record), record.switched_off)
        if record.error is not None:
            broken.add_row(record.name, _origin(record), shortened(str(record.error), LONGEST_TEXT))
        for family, kinds in record.components.items():
            for kind, cls in kinds.items():
                try:
                    about = cls.summary(), _fields(cls)
                except Exception as error:  # raised by the plugin
                    about = f"cannot be described: {error_text(error)}", ""
                table.add_row(kind, family, *(lines(shortened(text, LONGEST_TEXT)) for text in about), _origin(record))
    return Group(table, *(other for other in (broken, off) if other.row_count))


def schema_text(registry: Registry, only_ascii: bool = False) -> str:
    """Return the JSON Schema of config files, and report the plugins that it lacks on standard error.

    Args:
        registry: The plugins.
        only_ascii: Whether to write other letters as escapes of JSON.
    """
    schema, missing = partial_schema(registry)
    for line in missing:
        say(Terminal(stderr=True), line)
    return json.dumps(schema, indent=2, ensure_ascii=only_ascii)


def _table(title: str, *columns: str) -> Table:
    """Return an empty table that wraps long text in all columns but the first."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == columns[0])
    return table


def _origin(record: PluginRecord) -> str:
    return ", ".join(map(str, record.entries))


def _phrase(optimizer: FirstOrder) -> str:
    """Return an optimizer of torch in short notation: `sgd(lr=0.1, momentum=0.9)`."""
    names = [name for name in type(optimizer).model_fields if name != "kind"]
    return f"{optimizer.kind}({', '.join(f'{name}={getattr(optimizer, name)!r}' for name in names)})"


def _fields(cls: type[Component]) -> str:
    return "\n".join(f"{name}{printable(_default(field))}" for name, field in cls.model_fields.items()) or "none"


def _default(field: FieldInfo) -> str:
    return (
        " (required)"
        if field.is_required()
        else f" = {value_text(field.get_default(call_default_factory=True, validated_data={}))}"
    )
