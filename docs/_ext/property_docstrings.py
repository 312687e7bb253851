"""Fix for docstrings of properties: napoleon reads the text before a colon in their first line as a type."""

from typing import Any

from sphinx.application import Sphinx


def begin_with_comment(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Put an empty comment first, so that napoleon finds no type there; types are annotations in this project."""
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", begin_with_comment, priority=400)  # napoleon's is 500
    return {"version": "1", "parallel_read_safe": True}
