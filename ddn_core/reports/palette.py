"""Colours after Okabe and Ito, which differ for all kinds of colour vision, on a light and on a dark background.

The contrast of text to its background is at least 4.5 to 1, and that of lines at least 3 to 1. Series also differ in
dash and marker.
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "ground": "#ffffff",
    "surface": "#f4f6f8",
    "text": "#1d2733",
    "muted": "#55606e",
    "line": "#e3e7ec",
    "axis": "#aeb7c1",
    "accent": "#005a8f",
    "mark": "#fff3d6",
}
DARK: Mapping[str, str] = {
    "ground": "#12171e",
    "surface": "#1b222c",
    "text": "#e6ebf1",
    "muted": "#a7b3c1",
    "line": "#29323d",
    "axis": "#5b6877",
    "accent": "#6cbdf0",
    "mark": "#3a3018",
}
LIGHT_SERIES = ("#0072b2", "#c44601", "#00805c", "#b0548a", "#a38a00", "#2795d0", "#1d2733", "#7d1d1d")
DARK_SERIES = ("#56b4e9", "#e69f00", "#2fc79a", "#e79fc8", "#f0e442", "#ff7043", "#e6ebf1", "#9a8cff")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px,2px,2px,2px,2px", "1px,3px")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star", "cross")

# Ordered values, such as steps, use viridis, from colours close to the background to colours that stand out.
LIGHT_ORDER = ("#35a37f", "#1f928c", "#277f8e", "#31688e", "#3e4989", "#472d7b", "#440154")
DARK_ORDER = ("#4573a5", "#2f8fa3", "#1fa188", "#4ac16d", "#8bd646", "#c8e020", "#fde725")


def themes() -> dict[str, dict[str, object]]:
    """Return the light and the dark theme for the page."""
    looks = {"dashes": DASHES, "symbols": SYMBOLS}
    return {
        "light": {**LIGHT, "series": LIGHT_SERIES, "order": LIGHT_ORDER, **looks},
        "dark": {**DARK, "series": DARK_SERIES, "order": DARK_ORDER, **looks},
    }


def css_variables(theme: Mapping[str, str]) -> str:
    """Return the colours of a theme as CSS custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in theme.items())


def series(index: int, opacity: float | None = None) -> str:
    """Return the name of the colour of a series; the eight colours repeat."""
    return f"$c{index % len(LIGHT_SERIES)}" + ("" if opacity is None else f"/{opacity:g}")


def in_order(index: int, count: int) -> str:
    """Return the name of the colour of an ordered value; a single value has the last colour."""
    return f"$q{index / (count - 1) if count > 1 else 1:.3f}"


def line_style(index: int, width: float = 2) -> dict[str, object]:
    """Return colour and dash of a series."""
    return {"color": series(index), "dash": DASHES[index % len(DASHES)], "width": width}


def marker_style(index: int, size: float = 7, opacity: float = 1) -> dict[str, object]:
    """Return colour and symbol of a series."""
    return {"color": series(index), "symbol": SYMBOLS[index % len(SYMBOLS)], "size": size, "opacity": opacity}
