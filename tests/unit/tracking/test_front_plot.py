"""The picture: what is written on it, which axis it has, and that nothing is invented or covered."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from dvt.exits import FrontReport, StaticReference, make_report
from dvt.exits.bootstrap import bootstrap_report
from dvt.tracking.front_plot import draw_front, draw_front_over_seconds
from tests.unit.exits.examples import cascade_scores


def report(macs: tuple[float, ...], static: StaticReference | None = None, recipe: str = "embedded") -> FrontReport:
    calibration, test = (cascade_scores(len(macs), 300, seed=seed) for seed in (0, 1))
    return make_report(recipe, range(4, 4 + len(macs)), macs, calibration, test, (macs[0], macs[-1]), static)


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in axes_of(figure).texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("macs", "unit", "scale"),
    [
        ((310, 640), "", "linear"),
        ((310, 3100), " [K]", "log"),
        ((0.3e6, 1.19e6), " [M]", "linear"),
        ((0.3e6, 1.2e6), " [M]", "log"),
        ((0.4677e9, 1.4461e9, 3.4550e9), " [G]", "log"),
        ((2e12,), " [T]", "linear"),
    ],
)
def test_the_cost_axis_has_a_fitting_unit_and_scale(macs: tuple[float, ...], unit: str, scale: str) -> None:
    axes = axes_of(draw_front(report(macs)))
    assert axes.get_xlabel() == f"mean multiply-adds per image{unit}"
    assert axes.get_ylabel() == "top-1 accuracy [%]"
    assert axes.get_xscale() == scale
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 10


def test_title_and_labels() -> None:
    figure = draw_front(report((1e6, 3e6, 9e6), StaticReference(token_grid=10, macs=5e6, test_top1=0.8)))
    assert axes_of(figure).get_title(loc="left") == "embedded: accuracy over cost"
    assert {"exit 1 · 4x4", "exit 2 · 5x5", "exit 3 · 6x6", "static 10x10", "1 M", "9 M"} == set(texts(figure))
    assert legend(figure) == [
        "test images",
        "calibration images (optimistic)",
        "thresholds for a budget (dotted line)",
        "all images leave at one exit",
        "static model, same recipe",
    ]


def test_without_a_trained_reference_none_is_drawn() -> None:
    figure = draw_front(report((1e6, 3e6, 9e6)))
    assert not any("static" in text for text in [*texts(figure), *legend(figure)])


def test_the_curves_are_the_reports() -> None:
    made = report((1e6, 3e6, 9e6))
    test, calibration = axes_of(draw_front(made)).lines[:2]
    expected = sorted((point.macs / 1e6, 100 * point.accuracy) for point in made.test_points)
    np.testing.assert_allclose(test.get_xydata(), expected)
    expected = [(point.macs / 1e6, 100 * point.accuracy) for point in made.calibration_front.points]
    np.testing.assert_allclose(calibration.get_xydata(), expected)


def test_one_point_is_no_curve() -> None:
    assert legend(draw_front(report((1e6,)))) == [
        "thresholds for a budget (dotted line)",
        "all images leave at one exit",
    ]


@pytest.mark.parametrize("num_exits", [1, 2, 3, 5, 6])
def test_labels_stay_inside_and_apart(num_exits: int) -> None:
    macs = tuple(1e6 * 2.1**index for index in range(num_exits))
    figure = draw_front(report(macs, StaticReference(token_grid=14, macs=0.9 * macs[-1], test_top1=0.85)))
    frame = figure.bbox
    boxes = [text.get_window_extent() for text in axes_of(figure).texts if isinstance(text, Annotation)]
    boxes += [figure.legends[0].get_window_extent(), axes_of(figure).xaxis.label.get_window_extent()]
    for box in boxes:
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_many_budgets_do_not_hide_the_curves() -> None:
    scores = cascade_scores(3, 300, seed=0)
    macs = (1e6, 3e6, 9e6)
    figure = draw_front(make_report("a", (4, 7, 10), macs, scores, scores, tuple(np.linspace(1e6, 9e6, 59))))
    assert len(axes_of(figure).lines) == 2
    assert "thresholds for a budget" in legend(figure)


def test_accuracies_beyond_all_or_nothing_have_no_ticks() -> None:
    perfect = cascade_scores(2, 50, seed=0)
    perfect.correct[:] = True
    figure = draw_front(make_report("a", (4, 7), (1e6, 3e6), perfect, perfect, (1e6,)))
    low, high = axes_of(figure).get_ylim()
    assert not [tick for tick in axes_of(figure).get_yticks() if low <= tick <= high and not 0 <= tick <= 100 + 1e-9]


def test_a_long_name_stays_inside() -> None:
    figure = draw_front(report((1e6, 3e6), recipe="a_long_name" * 9))
    title = next(
        text for text in axes_of(figure).findobj(match=lambda a: hasattr(a, "get_text")) if "cost" in text.get_text()
    )
    assert title.get_window_extent().x1 <= figure.bbox.x1


def test_every_text_is_in_the_font_that_comes_along() -> None:
    figure = draw_front(report((1e6, 3e6, 9e6)))
    found = figure.findobj(match=lambda artist: hasattr(artist, "get_fontfamily"))
    assert {family for text in found for family in text.get_fontfamily()} == {"DejaVu Sans"}


def test_bands_are_drawn_around_the_test_images() -> None:
    made = report((1e6, 3e6, 9e6))
    bands = bootstrap_report(made, cascade_scores(3, 300, seed=1), num_resamples=1000)
    figure = draw_front(made, bands)
    assert legend(figure)[:2] == ["test images", "95 % bootstrap band"]
    (area,) = [drawn for drawn in axes_of(figure).collections if drawn.get_label() == "95 % bootstrap band"]
    heights = area.get_paths()[0].vertices[:, 1]
    ends = [end for band in bands.test_points for end in (band.accuracy_low, band.accuracy_high)]
    np.testing.assert_allclose([heights.min(), heights.max()], [100 * min(ends), 100 * max(ends)])


def test_over_time_costs_are_the_measured_ones() -> None:
    made, seconds = report((1e6, 3e6, 9e6), StaticReference(token_grid=10, macs=5e6, test_top1=0.8)), (4e-4, 1e-3, 3e-3)
    figure = draw_front_over_seconds(made, seconds)
    axes = axes_of(figure)
    assert axes.get_title(loc="left") == "embedded: accuracy over time"
    assert axes.get_xlabel() == "mean time per image [ms]"
    expected = sorted((1e3 * np.dot(point.exit_shares, seconds), 100 * point.accuracy) for point in made.test_points)
    np.testing.assert_allclose(axes.lines[0].get_xydata(), expected)
    assert not any("static" in text for text in [*texts(figure), *legend(figure)])  # its time was not measured
    assert not any(text.endswith(" M") for text in texts(figure))  # budgets are of another kind of cost


@pytest.mark.parametrize(
    ("seconds", "told"), [((1.0, 2.0), "1, 2"), ((0.0, 1.0, 2.0), "0, 1, 2"), ((1, 1, 2), "1, 1, 2")]
)
def test_seconds_that_do_not_rise_are_refused(seconds: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=f"^seconds_per_exit must hold 3 rising seconds above 0, got {told}$"):
        draw_front_over_seconds(report((1e6, 3e6, 9e6)), seconds)
