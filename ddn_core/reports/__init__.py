"""A report as one HTML file that needs no network: of runs, of a replay, or of both.

parts.py               a section with its text, switches, figures and tables
palette.py             colours of the page and of the lines, light and dark
curves.py              curves that are small enough to embed: thinned, rounded, seeds summarized
curvature.py           selection of the recorded steps of runs
figures_runs.py        learning curves
figures_steps.py       predicted and actual decrease, dampings, step norms
figures_directions.py  spectrum over time, directions of a step, share of each direction
figures_replay.py      candidates on recorded curvature: dampings and kept directions
figures_decrease.py    predicted and expected decrease, and step norm, of the candidates
tables.py              headline, settings, versions
page.py                the sections as a page, with page.html.jinja, page.css and page.js
"""

from ddn_core.reports.page import check_installed, size_text, write_report
from ddn_core.reports.parts import Figure, Key, Section, Switch, Table

__all__ = ["Figure", "Key", "Section", "Switch", "Table", "check_installed", "size_text", "write_report"]
