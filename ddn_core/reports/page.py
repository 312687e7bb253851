"""The page of a report: one file that needs no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.reports.curvature import recorded_steps
from ddn_core.reports.figures_directions import direction_sections, spectrum_section
from ddn_core.reports.figures_replay import replay_sections
from ddn_core.reports.figures_runs import learning_section
from ddn_core.reports.figures_steps import damping_section, decrease_section
from ddn_core.reports.palette import DARK, LIGHT, css_variables, themes
from ddn_core.reports.parts import Section
from ddn_core.reports.tables import headline_section, settings_section, versions_section
from ddn_core.runs import RunRecord
from ddn_core.traces import Replay

ADVICE = "reports need plotly and jinja2: pip install 'ddn-core[report]'"
_SIZE = "@@size"  # replaced by text of the same length once the size is known


def write_report(
    path: Path | str,
    runs: Sequence[RunRecord] = (),
    replay: Replay | None = None,
    extra_sections: Sequence[Section] = (),
    title: str | None = None,
) -> int:
    """Write a report as one HTML file that needs no network, and return its size in bytes.

    Empty sections are omitted. The same input gives the same file.

    Example:
        >>> write_report("report.html", [RunRecord.read("runs/digits"), RunRecord.read("runs/adam")])

    Args:
        path: The file.
        runs: The runs; runs of the same name are seeds of one config.
        replay: Candidates on recorded curvature.
        extra_sections: Sections to show before all others.
        title: Heading of the page; by default, the names of the runs.

    Raises:
        ArgumentError: There is nothing to report, plotly is not installed, or the file cannot be written.
    """
    check_installed()
    sections = [*_sections(runs, replay, extra_sections)]
    if not sections:
        raise ArgumentError("There is nothing to report. Give a run or a replay.")
    page = _page(sections, title or _title(runs, replay), _subtitle(runs, replay))
    content = page.encode(errors="backslashreplace")  # a name of a file need not be UTF-8
    content = content.replace(_SIZE.encode(), size_text(len(content)).rjust(len(_SIZE)).encode())
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content)
    except OSError as error:
        raise ArgumentError(f"The report {path} cannot be written: {error.strerror or error}.") from error
    return len(content)


def check_installed() -> None:
    """Raise an error unless reports can be written.

    Raises:
        ArgumentError: plotly or jinja2 is not installed.
    """
    if find_spec("plotly") is None or find_spec("jinja2") is None:
        raise ArgumentError(ADVICE)


def size_text(size: int) -> str:
    """Return a size in megabytes, as a person reads it."""
    return f"{size / 1e6:.1f} MB"


def _sections(runs: Sequence[RunRecord], replay: Replay | None, extra: Sequence[Section]) -> list[Section]:
    recorded = recorded_steps(runs)
    found = [
        *extra,
        headline_section(runs),
        learning_section(runs),
        decrease_section(runs),
        damping_section(runs),
        spectrum_section(runs, recorded),
        *direction_sections(recorded),
        *(replay_sections(replay) if replay is not None else []),
        settings_section(runs),
        versions_section(runs),
    ]
    return [section for section in found if section is not None]


def _title(runs: Sequence[RunRecord], replay: Replay | None) -> str:
    names = list(dict.fromkeys(run.name for run in runs))
    if not names:
        return f"Replay of {len(replay.names) - 1} candidates" if replay is not None else "Report"
    return (
        names[0]
        if len(names) == 1
        else f"{', '.join(names[:-1])} and {names[-1]}"
        if len(names) < 5
        else f"{len(names)} runs"
    )


def _subtitle(runs: Sequence[RunRecord], replay: Replay | None) -> str:
    problems = list(dict.fromkeys(str((run.config.get("problem") or {}).get("kind", "?")) for run in runs))
    parts = []
    if runs:
        parts.append(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} on {', '.join(problems)}")
    if replay is not None:
        parts.append(f"{len(replay.names) - 1} candidates on {len(replay.trace)} recorded steps")
    return "; ".join(parts)


def _page(sections: Sequence[Section], title: str, subtitle: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("ddn_core.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    here = Path(__file__).parent
    figures = {figure.name: asdict(figure) for section in sections for figure in section.figures}
    keys = {section.name: [asdict(key) for key in section.keys] for section in sections if section.keys}
    keyed = {figure.name: section.name for section in sections if section.keys for figure in section.figures}
    switches = {switch.name: asdict(switch) for section in sections for switch in section.switches}
    data = {"figures": figures, "switches": switches, "keys": keys, "keyed": keyed, "themes": themes()}
    return environment.get_template("page.html.jinja").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        size=_SIZE,
        version=metadata.version("ddn-core"),
        light=Markup(css_variables(LIGHT)),
        dark=Markup(css_variables(DARK)),
        css=Markup((here / "page.css").read_text(encoding="utf-8")),
        script=Markup((here / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()) if figures else "",
        data=Markup(_json(data)),
    )


def _json(data: Any) -> str:
    """Return data as JSON without characters that could end a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
