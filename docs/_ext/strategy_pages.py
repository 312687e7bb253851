"""Generator of a page for each built-in strategy: docstring, fields, an example, and a plot of its effect.

The pages are in `docs/strategies/generated`, which git ignores. Unchanged pages are not written again, so that a second
build is quick.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from sphinx.application import Sphinx
from strategy_plots import plot_criterion, plot_damping

from ddn_core.api import AnyCriterion, AnyDamping
from ddn_core.cli.component_page import config_example
from ddn_core.plugins.component import Component
from ddn_core.plugins.describe import example, paragraphs, tables_inside
from ddn_core.plugins.discovery import BUILTIN
from ddn_core.plugins.registry import installed_registry

PLOTS = {"criterion": (AnyCriterion, plot_criterion), "damping": (AnyDamping, plot_damping)}
TITLES = {"criterion": "Criteria", "damping": "Dampings"}


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "strategies" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    (builtin,) = (record for record in installed_registry().plugins() if record.name == BUILTIN)
    if builtin.error is not None:
        raise builtin.error
    for family, (reference, plot) in PLOTS.items():
        for kind, cls in builtin.components[family].items():
            name = f"{family}-{kind}"
            strategy = TypeAdapter(reference).validate_python(example(cls))
            plot(strategy).savefig(folder / f"{name}.svg", metadata={"Date": None})
            write(folder / f"{name}.md", page(cls, name))


def page(cls: type[Component], name: str) -> str:
    """Return the page of a strategy."""
    texts = [f"{text}\n" for text in paragraphs(cls)]
    parts = [f"# `{cls.kind}`\n", *texts, f"![Effect of {cls.kind} on a typical spectrum]({name}.svg)\n"]
    if cls.model_fields:
        parts += ["## Fields\n", table(cls)]
        for field in cls.model_fields.values():
            parts += [f"{model.__doc__}\n\n{table(model)}" for model in tables_inside(field.annotation)]
    parts += ["## Example\n", f"```toml\n{config_example(cls)}\n```\n"]
    return "\n".join(parts)


def table(model: type[BaseModel]) -> str:
    return f"```{{schema-table}} {model.__module__}.{model.__qualname__}\n```\n"


def write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    return {"version": "1", "parallel_read_safe": True}
