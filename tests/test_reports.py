"""The report as a browser shows it: every plot, without network, in light and dark, from 400 to 2000 pixels."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from ddn_core.cli.app import app
from ddn_core.cli.report import unique_names
from ddn_core.errors import ArgumentError
from ddn_core.reports import Section, Table, write_report
from ddn_core.reports.curves import plot_text, ranks_shown, spread_evenly, summarized, thinned
from ddn_core.reports.palette import DARK, DARK_ORDER, DARK_SERIES, LIGHT, LIGHT_ORDER, LIGHT_SERIES
from ddn_core.runs import EndEvent, RunRecord
from ddn_core.testing import digits_trace
from ddn_core.traces import replay

pytestmark = pytest.mark.xdist_group("report")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_needed = pytest.mark.skipif(
    CHROMIUM is None or find_spec("playwright") is None,
    reason="needs playwright and Chromium, which `apt-get install chromium` installs, to look at the report's page",
)

LIMIT = 120_000
"""Milliseconds after which a page that does nothing is an error, on a machine that is busy with something else, too."""

WIDTH = 1280
"""Width of a page when it is opened, in pixels."""

EVIL = "<script>alert(1)</script>"
NEWTON = """
[problem]
kind = "spirals"
samples = 120
batch_size = 24
hidden = [6]
[training]
epochs = 3
[record]
[[groups]]
params = ["0.*"]
criterion = { kind = "top-k", k = 20 }
damping = { kind = "constant", value = 0.1 }
lr = 0.5
[[groups]]
params = ["*"]
criterion = { kind = "all" }
damping = { kind = "constant", value = 0.1 }
lr = 0.5
"""
ADAM = """
[problem]
kind = "spirals"
samples = 120
batch_size = 24
[training]
epochs = 3
evaluate_every = 2
[optimizer]
kind = "adam"
lr = 1e-2
"""
RUNS = {
    "newton": (NEWTON,),
    "adam": (ADAM,),
    "adam-1": (ADAM, "training.seed=1"),
    "nan": (ADAM, 'optimizer.kind="sgd"', "optimizer.lr=1e38", 'training.on_divergence="continue"'),
    "one": (NEWTON, "problem.batch_size=96", "training.epochs=1"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Run folders of short runs, by name."""
    place = tmp_path_factory.mktemp("runs")
    for name, (text, *changes) in RUNS.items():
        config = place / f"{name}.toml"
        config.write_text(text)
        settings = [part for change in changes for part in ("--set", change)]
        result = CliRunner().invoke(app, ["train", str(config), "--out", str(place / name), *settings])
        assert result.exit_code == (3 if name == "nan" else 0), result.output
    return place


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory):
    """Reports, by name."""
    place = tmp_path_factory.mktemp("pages")
    read = RunRecord.read
    seeds = [read(folders / name, EVIL) for name in ("adam", "adam-1")]
    every = [read(folders / "newton"), *seeds, read(folders / "nan"), read(folders / "one")]
    tried = {EVIL: {"kind": "constant", "value": 1e-2}, "snr": ({"kind": "snr"}, {"kind": "snr-cutoff"})}
    extra = Section("extra", f"Extra {EVIL}", "A table.", tables=[Table("Numbers", ["a", "b"], [[EVIL, "1"]])])
    content = {
        "every": {"runs": every, "extra_sections": [extra]},
        "newton": {"runs": every[:1], "title": EVIL},
        "nan": {"runs": [every[3]]},
        "one": {"runs": [every[4]]},
        "adam": {"runs": seeds[:1]},
        "replay": {"replay": replay(digits_trace(), tried, splits=2)},
    }
    sizes = {name: write_report(place / f"{name}.html", **given) for name, given in content.items()}
    assert all((place / f"{name}.html").stat().st_size == size for name, size in sizes.items())
    return {name: place / f"{name}.html" for name in content}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=LIMIT)
        yield opened
        opened.close()


REMOVE_HINTS = "document.querySelectorAll('.plotly-notifier').forEach((one) => one.remove())"


class Shown:
    """Reports that are open in a browser, and what they ask for and tell of; it takes seconds to open one."""

    def __init__(self, browser, paths):
        self.browser, self.paths = browser, paths
        self.pages, self.errors, self.asked = {}, [], []

    def open(self, name, scheme):
        page = self.browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(LIMIT)
        page.on("console", lambda message: self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(self.paths[name].as_uri())
        page.wait_for_selector("html[data-ready]", timeout=LIMIT, state="attached")
        self.pages[name, scheme] = page


@pytest.fixture(scope="module")
def shown(browser, pages):
    return Shown(browser, pages)


@pytest.fixture
def show(shown, request):
    """Show a report as it is when it has been opened, and fail if it tells of an error or asks for anything but itself.

    Tests share the page of a report. Each leaves it as it found it; after one that failed it is opened anew.
    """
    failed, used, loaded = request.session.testsfailed, set(), []

    def open_page(name, scheme="light"):
        if (name, scheme) not in shown.pages:
            shown.open(name, scheme)
            loaded.append(shown.paths[name].as_uri())
        else:  # a hint that plotly showed in an earlier test, and that fades by the clock
            shown.pages[name, scheme].evaluate(REMOVE_HINTS)
        used.add((name, scheme))
        return shown.pages[name, scheme]

    yield open_page
    if request.session.testsfailed > failed:
        for one in used:
            shown.pages.pop(one).close()
    (errors, asked), shown.errors, shown.asked = (shown.errors, shown.asked), [], []
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert [url for url in asked if url.startswith("file:")] == loaded


PLOTS = {"every": 15, "newton": 15, "nan": 3, "one": 14, "adam": 3, "replay": 5}


@browser_needed
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("every", "replay") else pytest.mark.slow) for name in PLOTS]
)
def test_every_plot_is_there(show, name):
    page = show(name)
    assert page.locator(".plot.js-plotly-plot").count() == page.locator(".plot").count() == PLOTS[name]
    assert page.locator(".plot .main-svg").count() >= PLOTS[name]
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("[role=img][aria-label]").count() == PLOTS[name]


@browser_needed
def test_names_are_text(show):
    page = show("every")
    assert EVIL in page.locator("#headline table").inner_text()
    assert EVIL in page.locator(".key").nth(1).inner_text()
    assert EVIL in page.locator("#extra").inner_text()
    assert EVIL in show("replay").locator("#replay-kept").text_content()


def _until(page, expression):
    """Wait for an expression to be true; playwright's own way needs eval, which the page forbids."""
    for _ in range(LIMIT // 25):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {expression}")


def _values(page, figure, axis):
    return page.evaluate(f"document.getElementById('{figure}').data.map((trace) => trace.{axis})")


@browser_needed
def test_hover_tells_values(show):
    page = show("newton")
    mark = page.locator("#test-loss .points path").nth(1)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 1, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator("#test-loss .hovertext").first
    label.wait_for(timeout=LIMIT)
    assert re.search(r"test loss [\d.]+, after \d+ steps", label.text_content())


@browser_needed
def test_legends_hide_and_show(show):
    page = show("every")
    seen = "document.getElementById('test-loss').data.filter((trace) => trace.visible !== false).length"
    before = page.evaluate(seen)
    key = page.locator("#learning .key").nth(1)
    key.focus()
    page.keyboard.press("Enter")
    assert key.get_attribute("aria-pressed") == "false"
    assert page.evaluate(seen) == before - 3  # the line and the edges of its band
    page.locator("#theme").click()  # what is hidden stays so
    assert page.evaluate(seen) == before - 3
    page.locator("#learning .key").nth(1).click()
    assert page.evaluate(seen) == before

    entry = page.locator("#spectrum-rank .legendtoggle").first
    entry.scroll_into_view_if_needed()
    entry.click()
    _until(page, "document.getElementById('spectrum-rank')._fullData[0].visible === 'legendonly'")
    page.locator("#theme").click()
    assert page.evaluate("document.getElementById('spectrum-rank')._fullData[0].visible") == "legendonly"
    entry.click()
    _until(page, "document.getElementById('spectrum-rank')._fullData[0].visible === true")


@browser_needed
def test_dragging_zooms_and_a_double_click_goes_back(show):
    page = show("newton")
    place = page.locator("#test-loss .nsewdrag").first
    place.scroll_into_view_if_needed()
    read = "document.getElementById('test-loss')._fullLayout.xaxis.range.map(Number)"
    before, box = page.evaluate(read), place.bounding_box()
    x, y = box["x"], box["y"]
    page.mouse.move(x + 0.3 * box["width"], y + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(x + 0.7 * box["width"], y + 0.8 * box["height"], steps=4)
    page.mouse.up()
    _until(page, f"({read})[0] > {before[0]}")
    low, high = page.evaluate(read)
    assert before[0] < low < high < before[1]
    page.mouse.dblclick(x + 0.5 * box["width"], y + 0.5 * box["height"])
    _until(page, f"Math.abs(({read})[0] - {before[0]}) < 1e-6")


@browser_needed
def test_the_horizontal_axis_is_chosen(show):
    page = show("newton")
    steps = _values(page, "training-loss", "x")
    page.get_by_role("button", name="Epoch", exact=True).click()
    epochs = _values(page, "training-loss", "x")
    assert epochs[-1] == [1, 2, 3]
    assert steps[-1] == [4, 8, 12]
    assert page.locator("#training-loss .xtitle").text_content() == "epoch"
    page.get_by_role("button", name="Seconds", exact=True).click()
    seconds = _values(page, "test-loss", "x")[-1]
    assert seconds == sorted(seconds)
    assert seconds != epochs[-1]
    page.get_by_role("button", name="Step", exact=True).click()
    assert _values(page, "training-loss", "x") == steps


@browser_needed
def test_run_and_step_are_chosen(show):
    page = show("every")
    slider = page.locator("#directions input[type=range]")
    first = _values(page, "slopes", "y")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert _values(page, "slopes", "y") != first
    assert "(2 of " in page.locator("#carried output").inner_text()  # switches of equal name go together
    listed = page.locator("#directions select")
    assert listed.locator("option").all_inner_texts() == [
        f"{run}, group {n}" for run in ("newton", "one") for n in "01"
    ]
    listed.select_option(label="one, group 1")
    assert "(1 of 1)" in page.locator("#directions output").inner_text()  # a run of one step
    page.locator("#spectrum select").select_option(label="one, group 1")
    assert len(_values(page, "spectrum-rank", "x")) == 1
    for part in ("#directions", "#spectrum"):
        page.locator(f"{part} select").select_option(label="newton, group 0")
    assert _values(page, "slopes", "y") == first


CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0.99) return found;
    }
    return [255, 255, 255];
  };
  const poor = []; let count = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || element.closest("script, style, noscript, caption, .skip")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    let [r, g, b, alpha = 1] = parse(element.closest("svg") ? style.fill : style.color);
    for (let at = element; at; at = at.parentElement) alpha *= Number(getComputedStyle(at).opacity);
    if (element.closest("svg")) alpha *= Number(style.fillOpacity);
    const behind = ground(element);
    const shown = [r, g, b].map((value, i) => alpha * value + (1 - alpha) * behind[i]);
    const [low, high] = [luminance(shown), luminance(behind)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    count += 1;
    if (contrast < 4.5) poor.push([walker.currentNode.textContent, contrast]);
  }
  return { count, poor };
}"""


@browser_needed
@pytest.mark.parametrize("name", ["every", pytest.param("replay", marks=pytest.mark.slow)])
def test_text_can_be_read(show, name):
    page = show(name)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    def readable(theme):
        _until(page, f"document.querySelector('.plot').layout.paper_bgcolor === '{theme['ground']}'")
        _until(page, "document.getAnimations().every((one) => one.playState !== 'running')")  # buttons fade
        assert page.evaluate(f"getComputedStyle(document.body).backgroundColor === '{_rgb(theme['ground'])}'")
        found = page.evaluate(CONTRASTS)
        assert found["count"] > 100
        assert found["poor"] == []

    readable(LIGHT)
    page.locator("#theme").click()
    readable(DARK)
    page.locator("#theme").click()
    readable(LIGHT)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false; })")


@browser_needed
def test_a_dark_system_gives_a_dark_page(show):
    page = show("nan", scheme="dark")
    assert page.evaluate(CONTRASTS)["poor"] == []
    assert page.evaluate("document.querySelector('.plot').layout.paper_bgcolor") == DARK["ground"]
    page.emulate_media(color_scheme="light")
    _until(page, f"document.querySelector('.plot').layout.paper_bgcolor === '{LIGHT['ground']}'")
    assert page.locator("#theme").inner_text() == "Dark"
    assert page.evaluate(CONTRASTS)["poor"] == []
    page.emulate_media(color_scheme="dark")
    _until(page, f"document.querySelector('.plot').layout.paper_bgcolor === '{DARK['ground']}'")


def _rgb(color):
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"


@browser_needed
@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("every", (400,)),
        pytest.param("every", (2000, 768), marks=pytest.mark.slow),
        pytest.param("replay", (2000, 768, 400), marks=pytest.mark.slow),
    ],
)
def test_any_width_does(show, name, widths):
    page = show(name)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width in (*widths, WIDTH):
        page.set_viewport_size({"width": width, "height": 900})
        _until(
            page,
            "[...document.querySelectorAll('.plot')].every((one) => Math.abs(one._fullLayout.width - one.clientWidth) < 2)",
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = false; })")


def _data(path):
    text = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S
    )
    return json.loads(text[1])


def test_nothing_is_loaded_from_elsewhere(pages):
    from plotly.offline import get_plotlyjs

    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        assert text.count(get_plotlyjs()) == 1
        own = text.replace(get_plotlyjs(), "")
        assert not re.search(r"https?://|@import|url\(|<link|<iframe|\bsrc=", own)
        assert EVIL not in own
        assert "default-src 'none'" in own
        assert f"One file of {path.stat().st_size / 1e6:.1f} MB" in re.sub(" +", " ", own)
        assert path.stat().st_size < 6e6


def test_plotly_takes_every_figure(pages):
    """It raises if a trace has a property or a value that it does not know."""
    from plotly import graph_objects as go

    for path in pages.values():
        for figure in _data(path)["figures"].values():
            for frame in figure["frames"].values():
                for trace in frame["data"]:
                    plain = json.loads(re.sub(r'"\$order"', '"Viridis"', json.dumps(trace)))
                    go.Figure([json.loads(re.sub(r'"\$[^"]+"', '"#123456"', json.dumps(plain)))])


def test_runs_that_are_not_finite_are_told_of(pages, folders):
    assert "nan: the loss is not finite from step" in pages["nan"].read_text(encoding="utf-8")
    losses = _data(pages["nan"])["figures"]["test-loss"]["frames"]["0"]["data"][-1]["y"]
    assert None in losses
    never = replace(RunRecord.read(folders / "nan"), evaluations=(), steps=())
    assert write_report(folders / "empty.html", [never]) > 0


def test_runs_that_diverged_do_not_squash_the_others(folders, tmp_path):
    """They have lines of their own, and the axes first show the others."""
    run = RunRecord.read(folders / "adam")
    end = EndEvent("divergence", "the loss is large", len(run.steps), 5)
    steps = tuple(replace(step, loss=1e9 * step.loss) for step in run.steps)
    evaluations = tuple(replace(event, test_loss=1e9, train_loss=1e9) for event in run.evaluations)
    wild = replace(run, steps=steps, evaluations=evaluations, end=end)
    runs = [run, replace(run, name="b"), replace(wild, name="b"), replace(wild, name="wild")]
    write_report(tmp_path / "report.html", runs)
    page, figures = (tmp_path / "report.html").read_text(encoding="utf-8"), _data(tmp_path / "report.html")["figures"]
    for name in ("training-loss", "test-loss"):
        for frame in figures[name]["frames"].values():
            low, high = frame["layout"]["yaxis"]["range"]
            values = [value for trace in frame["data"] for value in trace["y"] if value is not None]
            assert max(values) > 1e8
            assert frame["layout"]["yaxis"]["type"] == "log"
            assert -2 < low < high < 1
            (median,) = (trace["y"] for trace in frame["data"] if trace.get("name") == "b" and "meta" not in trace)
            assert max(median) < 10
    assert "wild (diverged at step 5)" in page
    assert "b (1 of 2 diverged)" in page
    assert "wild: diverged at step 5: the loss is large." in page
    alone = tmp_path / "alone.html"
    write_report(alone, [wild])
    assert "range" not in _data(alone)["figures"]["test-loss"]["frames"]["0"]["layout"]["yaxis"]


def test_decreases_of_runs_that_diverged_do_not_squash_the_others(folders, tmp_path):
    run = RunRecord.read(folders / "newton")
    end = EndEvent("divergence", "the loss is large", len(run.steps), 5)
    steps = tuple(
        replace(step, loss=1e9 * step.loss, predicted_decrease=1e9)
        for step in run.steps
        if step.predicted_decrease is not None
    )
    write_report(tmp_path / "report.html", [run, replace(run, name="wild", steps=steps, end=end)])
    frames = _data(tmp_path / "report.html")["figures"]["decrease-scatter"]["frames"]
    assert all(frame["layout"]["xaxis"]["range"][1] < 10 for frame in frames.values())
    assert all(frame["layout"]["yaxis"]["range"][1] < 10 for frame in frames.values())
    assert max(frames["1"]["data"][-1]["x"]) > 1e8


def test_the_title_is_text(pages):
    assert "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>" in pages["newton"].read_text(encoding="utf-8")


def test_equal_input_gives_an_equal_file(folders, pages):
    again = folders / "again.html"
    write_report(again, [RunRecord.read(folders / "newton")], title=EVIL)
    assert again.read_bytes() == pages["newton"].read_bytes()


def test_a_damaged_trace_is_told_of(folders, tmp_path):
    shutil.copytree(folders / "newton", tmp_path / "newton")
    next((tmp_path / "newton" / "trace").glob("*.safetensors")).write_bytes(b"no tensors")
    write_report(tmp_path / "out.html", [RunRecord.read(tmp_path / "newton")])
    assert "is damaged" in (tmp_path / "out.html").read_text(encoding="utf-8")


def test_the_command(folders, tmp_path, monkeypatch):
    def call(*arguments):
        result = CliRunner().invoke(app, ["report", *map(str, arguments)])
        return result.exit_code, result.output

    monkeypatch.chdir(tmp_path)
    status, output = call(folders / "newton")
    path = folders / "newton" / "report.html"
    assert status == 0
    assert output.strip() == f"{path}, {path.stat().st_size / 1e6:.1f} MB; opens without network"
    path.unlink()
    assert call(folders / "newton", folders / "adam")[0] == 0
    (written,) = tmp_path.glob("runs/report-*.html")
    assert "newton and adam" in written.read_text(encoding="utf-8")
    assert call(folders / "adam", "--out", tmp_path / "deep" / "x.html")[0] == 0
    assert (tmp_path / "deep" / "x.html").is_file()
    status, output = call(tmp_path / "runs")
    assert status == 1
    assert "is not a run folder" in output
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr("ddn_core.reports.page.find_spec", lambda name: None)
    status, output = call(folders / "adam")
    assert status == 1
    assert "pip install 'ddn-core[report]'" in output


def test_names_of_equal_folders_are_told_apart(tmp_path):
    names = unique_names([tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "z" / "other"])
    assert names == ["x/run", "y/run", "other"]


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ArgumentError, match="nothing to report"):
        write_report(tmp_path / "x.html")


def test_thinning_keeps_spikes_and_gaps():
    values = [float(place % 7) for place in range(100_000)]
    values[31_234], values[77_777] = 1e9, float("nan")
    kept = thinned(values)
    assert len(kept) <= 2100
    assert {0, 31_234, 77_777, 99_999} <= set(kept)
    assert kept == sorted(kept)
    assert len(ranks_shown(5000)) <= 1200
    assert ranks_shown(5000)[-1] == 4999
    assert spread_evenly(100, 12)[0] == 0
    assert spread_evenly(100, 12)[-1] == 99


def test_seeds_become_a_median_with_a_band():
    curve = summarized([([0, 1], [1.0, 5.0]), ([0, 1], [2.0, float("nan")]), ([0, 1], [9.0, 6.0])])
    assert (curve.y, curve.low, curve.high) == ([2, None], [1, None], [9, None])


def test_long_names_are_cut_and_tags_are_letters():
    assert plot_text("<b>") == "&lt;b&gt;"
    assert len(plot_text("x" * 100)) == 48


def _luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_lines_stand_out():
    for theme, colors in ((LIGHT, (*LIGHT_SERIES, *LIGHT_ORDER)), (DARK, (*DARK_SERIES, *DARK_ORDER))):
        for color in colors:
            low, high = sorted([_luminance(color), _luminance(theme["ground"])])
            assert (high + 0.05) / (low + 0.05) >= 3, color
