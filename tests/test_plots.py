"""Figures as matplotlib axes: they draw the numbers, on the axes that they are given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from ddn_core.plots import (
    candidate_dampings,
    candidate_decreases,
    derivatives,
    learning_curves,
    noise,
    predicted_and_actual,
    shares,
    spectrum,
    spectrum_over_time,
)
from ddn_core.plots.palette import COLORS, styles
from ddn_core.runs import EndEvent, EvaluationEvent, History, RunRecord, StepEvent
from ddn_core.testing import digits_trace
from ddn_core.traces import replay, signal_to_noise

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


def run_of(name="run", losses=(2.0, 1.0), steps=(), seconds=1.0, diverged_at=None):
    evaluations = [
        EvaluationEvent(
            epoch=index + 1,
            step=10 * (index + 1),
            train_loss=loss,
            test_loss=2 * loss,
            test_metrics={"accuracy": 1 / (1 + loss)},
            whole_train_loss=None,
            seconds=seconds * (index + 1),
            step_seconds=seconds,
            ends_epoch=True,
        )
        for index, loss in enumerate(losses)
    ]
    end = None if diverged_at is None else EndEvent("divergence", "the loss is large", 99, diverged_at)
    return RunRecord(Path("nowhere"), name, {}, tuple(steps), tuple(evaluations), end)


def drawn(ax):
    """Draw the figure, and return the lines by label."""
    ax.figure.draw_without_rendering()
    return {line.get_label(): line for line in ax.lines}


def test_a_spectrum_is_drawn_with_the_largest_first(ax):
    directions = digits_trace().steps[0].groups[0].directions
    assert spectrum({"early": directions, "few": torch.tensor([-1e-9, 1.0, 3.0])}, ax) is ax
    lines = drawn(ax)
    values = lines["early"].get_ydata()
    assert list(values) == sorted(values, reverse=True)
    assert values[0] == float(directions.all_evals.max())
    assert list(lines["few"].get_ydata()) == [3.0, 1.0]
    assert "loss/param²" in ax.get_ylabel()


@pytest.mark.parametrize("source", ["trace", "mapping", "history"])
def test_spectra_over_time_are_those_of_every_step(ax, source):
    trace = digits_trace()
    spectra = {step.entry.step: [step.groups[0].directions.all_evals] for step in trace}
    given = {"trace": trace, "mapping": spectra, "history": History(spectra=spectra)}[source]
    spectrum_over_time(given, ax=ax)
    lines = drawn(ax)
    assert len(ax.lines) == 3
    assert lines["step 0"].get_ydata()[0] == float(spectra[0][0].max())
    assert lines["step 170"].get_ydata()[0] == float(spectra[170][0].max())


def test_derivatives_noise_and_shares_are_those_of_the_group(ax):
    group = digits_trace().steps[1].groups[0]
    derivatives(group, ax)
    lines = drawn(ax)
    torch.testing.assert_close(
        torch.tensor(lines["λ̄_k, loss/param²"].get_ydata()).float(), group.directions.loss_lambdas
    )
    assert set(lines["δ_k, loss/param²"].get_ydata()) == {float(group.deltas[0])}
    assert list(lines["λ̄_k, loss/param²"].get_xdata()) == list(range(64, 0, -1))
    ratios = drawn(noise(group.directions.select(range(40)), Figure().subplots()))
    expected = signal_to_noise(group.directions)[:40]
    torch.testing.assert_close(torch.tensor(ratios["kept"].get_ydata()), expected)
    lines = drawn(shares(group, Figure().subplots()))
    assert lines["of the squared norm"].get_ydata()[-1] == pytest.approx(1)
    assert lines["of the decrease"].get_ydata()[-1] == pytest.approx(1)


def test_kept_and_left_out_are_told_apart():
    top = replay(digits_trace(), {"top": ({"kind": "top-k", "k": 5}, {"kind": "constant"})}, splits=0).at(30, 0)[1]
    lines = drawn(noise(top.choice, Figure().subplots()))
    assert sorted(lines["kept"].get_xdata()) == [1, 2, 3, 4, 5]
    assert sorted(lines["left out"].get_xdata()) == list(range(6, 65))


def test_learning_curves_have_medians_and_ranges_over_seeds(ax):
    runs = [run_of("ours", (3.0, one)) for one in (1.0, 5.0, 2.0)] + [run_of("theirs", (4.0, 3.0))]
    learning_curves(runs, "train_loss", ax=ax)
    lines = drawn(ax)
    assert list(lines["ours (3 seeds)"].get_ydata()) == [3.0, 2.0]
    assert list(lines["theirs"].get_ydata()) == [4.0, 3.0]
    assert list(lines["theirs"].get_xdata()) == [10, 20]
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(heights), max(heights)) == (1.0, 5.0)
    metric = drawn(learning_curves(runs[-1], "accuracy", x="seconds", ax=Figure().subplots()))
    assert list(metric["theirs"].get_ydata()) == [0.2, 0.25]
    assert list(metric["theirs"].get_xdata()) == [1.0, 2.0]


@pytest.mark.parametrize("quantity", ["train_loss", "accuracy"])
def test_runs_that_diverged_do_not_squash_the_others(quantity):
    calm = [run_of("ours", (3.0, 1.0)), run_of("ours", (2.0, 1.5)), run_of("theirs", (4.0, 3.0))]
    wild = [run_of("ours", (1e9,), diverged_at=24), run_of("wild", (1e-9, -0.999), diverged_at=3)]
    expected = learning_curves(calm, quantity, ax=Figure().subplots())
    made = learning_curves([*calm, *wild], quantity, ax=Figure().subplots())
    assert made.get_ylim() == pytest.approx(expected.get_ylim(), rel=0.02)
    lines = drawn(made)
    assert set(lines) == {"ours (2 seeds)", "theirs", "ours (diverged at step 24)", "wild (diverged at step 3)"}
    assert list(lines["ours (2 seeds)"].get_ydata()) == list(drawn(expected)["ours (2 seeds)"].get_ydata())
    alone = learning_curves(wild[:1], quantity, ax=Figure().subplots())
    assert set(drawn(alone)) == {"ours (diverged at step 24)"}


def test_a_run_with_nan_and_a_run_of_nothing_are_drawn(ax):
    learning_curves([run_of("bad", (1.0, math.nan, 2.0)), run_of("none", ())], "train_loss", ax=ax)
    values = drawn(ax)["bad"].get_ydata()
    assert math.isnan(values[1])
    assert values[2] == 2.0


def test_predicted_and_actual_are_those_of_steps_where_both_are_known(ax):
    known = {"lr": (1.0,), "epoch": 1, "seconds": 0.1, "loss": 3.0}
    steps = [
        StepEvent(step=0, predicted_decrease=0.5, loss_after=2.0, **known),
        StepEvent(step=1, predicted_decrease=0.5, loss_after=None, **known),
        StepEvent(step=2, predicted_decrease=None, loss_after=1.0, **known),
    ]
    predicted_and_actual([run_of("one", steps=steps), run_of("other")], ax)
    lines = drawn(ax)
    assert lines["one"].get_xydata().tolist() == [[0.5, 1.0]]
    assert "as predicted" in lines


def test_candidates_are_drawn_at_a_step_and_over_steps(ax):
    result = replay(
        digits_trace(), {"top": ({"kind": "top-k", "k": 5}, {"kind": "relative", "fraction": 0.1})}, splits=1
    )
    candidate_dampings(result, 30, ax=ax)
    lines = drawn(ax)
    assert len(lines["recorded"].get_xdata()) == 64
    assert len(lines["top"].get_xdata()) == 5
    bars = candidate_decreases(result, ax=Figure().subplots())
    assert len(bars.patches) == 6
    heights = [patch.get_height() for patch in bars.patches]
    assert heights == [
        one.choice.predicted_decrease for name in result.names for one in result.results if one.name == name
    ]


def test_without_axes_the_current_ones_are_used():
    with pyplot.rc_context({"backend": "agg"}):
        figure, axes = pyplot.subplots()
        assert spectrum(torch.tensor([1.0, 2.0])) is axes
        pyplot.close(figure)


def test_no_two_of_the_first_styles_are_alike():
    seen = [tuple(style.values()) for style, _ in zip(styles(), range(28), strict=False)]
    assert len(set(seen)) == 28


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_stand_out_from_white():
    for color in COLORS:
        assert 1.05 / (luminance(color) + 0.05) > 2, color


def test_notebooks_are_shown_pictures_and_escaped_names():
    trace = digits_trace()
    result = replay(trace, {"<script>": {"kind": "constant"}}, splits=1)
    for shown in (trace._repr_html_(), result._repr_html_(), run_of("<script>")._repr_html_()):
        assert 'src="data:image/png;base64,' in shown
        assert "<script>" not in shown
        assert 'alt="' in shown
