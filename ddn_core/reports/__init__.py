"""A report as one HTML file that needs no network: of runs, of a replay, or of both.

parts.py               a section: its text, its switches, its figures, its tables
palette.py             colours of the page and of the lines, in light and in dark
curves.py              numbers made small enough to embed: thinned, rounded, seeds joined
curvature.py           the recorded steps of runs that are shown
figures_runs.py        learning curves
figures_steps.py       predicted against actual decrease, dampings and step norms
figures_directions.py  the spectrum over time, the directions of a step, and what each did
figures_replay.py      candidates on recorded curvature: dampings, which directions they keep
figures_promise.py     what these promise: decrease of the loss, step norm
tables.py              headline, settings, versions
page.py                the sections as a page; page.html.jinja, page.css and page.js lie beside it
"""

from ddn_core.reports.page import check_installed, size_text, write_report
from ddn_core.reports.parts import Figure, Key, Section, Switch, Table

__all__ = ["Figure", "Key", "Section", "Switch", "Table", "check_installed", "size_text", "write_report"]
