"""Sphinx configuration: `make docs`."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ddn"
author = "the ddn authors"
release = version = metadata.version("ddn-core")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "property_docstrings",
    "schema_tables",
    "strategy_pages",
]
exclude_patterns = ["_build", "_ext", "examples", "gallery/*.ipynb", "**/GALLERY_HEADER.rst"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Docstrings write code in single backticks.
default_role = "literal"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # run every example
    "parallel": 2,
    "abort_on_example_error": True,  # an example that fails, or that warns, fails the build
    "reset_modules": ("matplotlib", "example_warnings.set_filters"),
    "reset_modules_order": "both",
    "capture_repr": (),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = f"ddn {release}"
html_show_sphinx = False
