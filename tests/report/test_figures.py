from __future__ import annotations

import pytest

from orchestrator.report.figures import WIDTH, build_bars_figure, build_interval_figure
from orchestrator.report.wording import interval


def row(baseline="native", metric="ndcg@10", difference=0.2, low=0.1, high=0.3):
    return {
        "baseline": baseline, "metric": metric, "difference": difference, "low": low, "high": high, "p": 0.01,
        "wins": 5, "losses": 1, "ties": 2, "verdict": "better",
    }  # fmt: skip


def test_an_interval_above_zero_lies_right_of_the_zero_line():
    figure = build_interval_figure([row()], {})
    assert figure is not None
    mark = figure["groups"][0]["rows"][0]
    assert figure["zero"] < mark["from"] < mark["x"] < mark["to"]


def test_all_rows_share_one_scale():
    figure = build_interval_figure([row(), row("trained-format")], {})
    assert figure is not None
    first, second = (group["rows"][0] for group in figure["groups"])
    assert (first["x"], first["from"], first["to"]) == (second["x"], second["from"], second["to"])


def test_rows_are_grouped_under_the_label_of_their_baseline():
    figure = build_interval_figure([row(), row(metric="map"), row("trained-format")], {"native": "Base"})
    assert figure is not None
    assert [(group["title"], len(group["rows"])) for group in figure["groups"]] == [("Base", 2), ("trained-format", 1)]


def test_a_row_without_an_interval_is_a_point():
    figure = build_interval_figure([row(low=None, high=None)], {})
    assert figure is not None
    mark = figure["groups"][0]["rows"][0]
    assert (mark["from"], mark["to"], interval(mark["low"], mark["high"])) == (mark["x"], mark["x"], "[no interval]")


def test_differences_of_zero_can_be_laid_out():
    assert build_interval_figure([row(difference=0.0, low=0.0, high=0.0)], {}) is not None


@pytest.mark.parametrize("scale", [0.0007, 0.013, 0.4, 1.0])
def test_the_axis_has_two_to_six_round_ticks_with_zero_among_them(scale):
    figure = build_interval_figure([row(difference=scale / 2, low=-scale, high=scale)], {})
    assert figure is not None
    labels = [tick["label"] for tick in figure["ticks"]]
    assert (2 <= len(labels) <= 6, "0" in labels) == (True, True)


def test_bars_are_sorted_from_gain_to_loss_around_the_zero_line():
    figure = build_bars_figure([("a", 0.5, 0.1), ("b", 0.1, 0.9), ("c", 0.4, 0.4)])
    assert figure is not None
    win, tie, loss = figure["bars"]
    assert (win["kind"], tie["kind"], loss["kind"]) == ("win", "tie", "loss")
    assert win["y"] + win["height"] == pytest.approx(figure["zero"])
    assert loss["y"] == pytest.approx(figure["zero"])


def test_the_height_of_a_bar_is_proportional_to_its_difference():
    figure = build_bars_figure([("a", 0.0, 0.8), ("b", 0.0, 0.4)])
    assert figure is not None
    assert figure["bars"][0]["height"] == pytest.approx(2 * figure["bars"][1]["height"], rel=0.01)


@pytest.mark.parametrize("count", [1, 60, 399])
def test_all_bars_stay_inside_the_figure(count):
    figure = build_bars_figure([(str(n), 0.5, n / count) for n in range(count)])
    assert figure is not None
    assert (len(figure["bars"]), max(bar["x"] + bar["width"] for bar in figure["bars"]) <= WIDTH + 0.5) == (count, True)


def test_many_queries_are_sampled_from_first_to_last():
    figure = build_bars_figure([(str(n), 0.5, n / 5000) for n in range(5000)])
    assert figure is not None
    assert figure["sampled"]
    assert (
        len(figure["bars"]),
        figure["bars"][0]["title"].endswith(" 4999"),
        figure["bars"][-1]["title"].endswith(" 0"),
    ) == (
        400,
        True,
        True,
    )


def test_without_comparisons_there_are_no_figures():
    assert (build_interval_figure([], {}), build_bars_figure([])) == (None, None)


def test_a_gain_of_what_is_better_when_lower_comes_first_and_hangs_below_zero():
    figure = build_bars_figure([("a", 1.0, 2.0), ("b", 3.0, 1.0)], higher_is_better=False)
    assert figure is not None
    win, loss = figure["bars"]
    assert (win["kind"], loss["kind"], win["y"]) == ("win", "loss", pytest.approx(figure["zero"]))
    assert loss["y"] + loss["height"] == pytest.approx(figure["zero"])


def test_metrics_of_different_scales_each_have_their_own():
    figure = build_interval_figure(
        [
            row(metric="loss", difference=-1.0, low=-2.0, high=-0.5),
            row(metric="perplexity", difference=-100, low=-200, high=-50),
        ],
        {},
    )
    assert figure is not None
    loss, perplexity = figure["groups"][0]["rows"]
    assert (figure["shared"], [tick["label"] for tick in figure["ticks"]]) == (False, ["0"])
    assert (loss["x"], loss["from"], loss["to"]) == (perplexity["x"], perplexity["from"], perplexity["to"])
