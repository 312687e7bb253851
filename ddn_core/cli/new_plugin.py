"""The files of `ddn new-plugin NAME`: a package with a damping, a criterion and their tests."""

from __future__ import annotations

import re
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ddn_core.cli.options import new_folder
from ddn_core.errors import ArgumentError
from ddn_core.files import writing
from ddn_core.plugins.discovery import API_VERSION, installed_entries

SUFFIX = ".jinja"
RESERVED = ("builtin", "core", "plugins")
"""Names that ddn itself uses."""


def write_plugin(name: str, folder: Path | None = None) -> str:
    """Write the package of a new plugin, and return instructions for the next steps.

    Args:
        name: Name of the plugin: lower-case letters, digits and hyphens; a leading `ddn-` is dropped.
        folder: Folder to write; `ddn-NAME` by default.

    Raises:
        ArgumentError: The name cannot be used, or the folder is not empty or cannot be written.
    """
    plugin = name.removeprefix("ddn-")
    _check_name(plugin)
    folder = folder or Path(f"ddn-{plugin}")
    new_folder(folder)
    module = f"ddn_{plugin.replace('-', '_')}"
    values = {
        "name": plugin,
        "module": module,
        "distribution": f"ddn-{plugin}",
        "core_version": metadata.version("ddn-core"),
        "api_version": API_VERSION,
    }
    with as_file(files("ddn_core.cli") / "template") as template:
        environment = Environment(
            loader=FileSystemLoader(template), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
        )
        made = {
            source.replace("MODULE", module).removesuffix(SUFFIX): environment.get_template(source).render(values)
            for source in environment.list_templates()
        }
    with writing(folder):
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
    listed = "\n".join(f"  {path}" for path in sorted(made))
    return (
        f"Wrote {folder}:\n{listed}\n\nInstall it, run its tests, and look at its damping:\n"
        f"  cd {folder}\n  pip install --editable '.[test]'\n  pytest\n"
        f"  ddn plugins show {plugin}/spectral-floor"
    )


def _check_name(plugin: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", plugin):
        raise ArgumentError(
            f"{plugin!r} cannot be the name of a plugin. Use lower-case letters, digits and hyphens, such as 'acme'."
        )
    if plugin in RESERVED:
        raise ArgumentError(f"{plugin!r} is a name of ddn itself. Choose another name.")
    for entry in installed_entries():
        if entry.name == plugin:
            raise ArgumentError(f"plugin {plugin!r} is installed already ({entry}). Choose another name.")
