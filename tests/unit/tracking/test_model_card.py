"""The model card: what it tells, what it leaves out, and that it fits into a description."""

from dataclasses import replace

import pytest

from dvt.config import DataConfig
from dvt.exits import Confidence, Guarantee, ThresholdTable
from dvt.tracking.model_card import description_of, model_card
from tests.unit.tracking.tiny import Tiny, make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n\n")[1].split("\n\n## ")[0]


def test_what_it_tells(tiny: Tiny) -> None:
    card = model_card(tiny.content)
    assert card == model_card(tiny.content)
    assert card.startswith("# tiny\n\nA Dynamic Vision Transformer (Wang et al., NeurIPS 2021): a cascade of vit")
    assert "- takes images of 16x16 pixels and 1 channel\n- tells 5 classes: ant, bee, cat, dog, emu\n" in card
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == [
        "Data",
        "Exits",
        "Budgets",
        "Use and limits",
        "Load",
    ]
    report = tiny.content.report
    assert report is not None
    rows = section(card, "Exits").splitlines()
    assert rows[0] == "| exit | tokens | MACs | test top-1 |"
    assert rows[2] == f"| 1 | 2x2 | 26.3 k | {100 * report.exits[0].test_top1:.2f} % |"
    rows = section(card, "Budgets").splitlines()
    point = report.budgets[1]
    assert rows[3].startswith(f"| 81.8 k | {point.test.thresholds[0]:.4g} | ")
    assert rows[3].endswith(f"| {100 * point.test.accuracy:.2f} % |")
    assert section(card, "Data") == (
        "Trained on the image folder `/images`, less 10,000 of its training images, on which thresholds were chosen; "
        "measured on its folder `val`."
    )


def test_a_promise_and_temperatures_are_told(tiny: Tiny) -> None:
    promise = Guarantee(
        thresholds=(0.75, -float("inf")), tolerated_loss=0.02, level=0.95, bound=0.018, macs=1.2e6, num_tested=1000
    )
    table = ThresholdTable(tiny.content.thresholds.rows, Confidence("margin", (1.5, 2.0)), promise)
    card = model_card(replace(tiny.content, thresholds=table))
    assert section(card, "Guarantee") == (
        "With thresholds 0.75 it loses at most 2 points of accuracy against running all stages, 95 % sure, at 1.2 M "
        "mean MACs; tested on 1,000 calibration images."
    )
    assert "Thresholds are of the tempered margin, temperatures 1.5, 2. " in card


def test_what_was_not_measured_is_not_told(tiny: Tiny) -> None:
    card = model_card(replace(tiny.content, report=None, published_top1=(0.625, 0.75)))
    assert section(card, "Exits").splitlines()[0] == "| exit | tokens | MACs | top-1 as published |"
    assert "| 2 | 4x4 | 255 k | 75.00 % |" in card
    assert section(card, "Budgets") == "Thresholds are of the max probability. None was measured here."
    assert "- Nothing about it was measured here." in card
    bare = model_card(replace(tiny.content, report=None))
    assert section(bare, "Exits").splitlines()[:3] == [
        "| exit | tokens | MACs |",
        "|---|---|---|",
        "| 1 | 2x2 | 26.3 k |",
    ]


def test_digits_and_many_classes(tiny: Tiny) -> None:
    recipe = replace(tiny.content.recipe, data=DataConfig(root="s3://someone:secret@bucket/images"))
    card = model_card(replace(tiny.content, recipe=recipe, class_names=tuple(map(str, range(100)))))
    assert "tells 100 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 88 more\n" in card
    assert "`s3://bucket/images`" in card
    assert "secret" not in card


def test_cifar_is_told_from_a_folder(tiny: Tiny) -> None:
    recipe = tiny.content.recipe
    data = DataConfig(source="cifar10", root="/cifar-10-binary.tar.gz")
    recipe = replace(recipe, data=data, cascade=replace(recipe.cascade, num_classes=10))
    assert section(model_card(replace(tiny.content, recipe=recipe)), "Data") == (
        "Trained on cifar10 from `/cifar-10-binary.tar.gz`, less 10,000 of its training images, on which thresholds "
        "were chosen; measured on its test images."
    )


def test_a_description_holds_the_card_and_one_verdict() -> None:
    first = description_of("# Card", "Failed.")
    assert first == "# Card\n\n## Gate\n\nFailed."
    assert description_of(first, "Passed.") == "# Card\n\n## Gate\n\nPassed."
    assert description_of("", "Passed.") == "\n\n## Gate\n\nPassed."


def test_what_is_too_long_is_cut_at_a_line() -> None:
    told = description_of("a line\n" * 1000, "a row\n" * 1000)
    card, _, gate = told.partition("\n\n## Gate\n\n")
    assert len(told) <= 5000
    assert card.endswith("a line\n\n(cut)")
    assert gate.endswith("a row\n\n(cut)")
    assert min(len(card), len(gate)) > 2400
