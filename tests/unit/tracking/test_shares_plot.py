"""The picture of who leaves where: areas that add up to all images, and the budgets' numbers on them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from dvt.exits import FrontReport, make_report
from dvt.tracking.shares_plot import draw_shares
from tests.unit.exits.examples import cascade_scores, costs


def report(num_exits: int, budgets: tuple[float, ...] = (1.5e6, 2.5e6)) -> FrontReport:
    calibration, test = (cascade_scores(num_exits, 300, seed=seed) for seed in (0, 1))
    return make_report("embedded", range(4, 4 + num_exits), costs(num_exits), calibration, test, budgets)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("num_exits", [1, 2, 3, 6])
def test_the_areas_fill_the_picture(num_exits: int) -> None:
    made = report(num_exits)
    axes = draw_shares(made).axes[0]
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axes.collections[:num_exits]]
    np.testing.assert_allclose(tops[-1], 100)
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlim()[1] == pytest.approx(made.exits[-1].macs / 1e6 * (1.1 if num_exits == 1 else 1))


def test_a_budgets_shares_are_written_on_it() -> None:
    made = report(3)
    figure = draw_shares(made)
    assert figure.axes[0].get_title(loc="left") == "embedded: where images leave"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "exit 1 · 4x4",
        "exit 2 · 5x5",
        "exit 3 · 6x6",
    ]
    shares = [f"{100 * s:.0f} %" for budget in made.budgets for s in budget.test.exit_shares if s >= 0.05]
    assert texts(figure) == ["1.5 M", "2.5 M", *shares]


def test_many_budgets_are_not_written() -> None:
    assert texts(draw_shares(report(3, tuple(np.linspace(1.1e6, 8e6, 9))))) == []
