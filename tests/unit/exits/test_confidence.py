"""Measures of confidence, their temperatures, and the choice among them by the front's area."""

import json
import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from dvt.config import ExitsConfig
from dvt.exits import (
    MEASURES,
    PLAIN,
    Confidence,
    Front,
    FrontPoint,
    calibrated_front,
    choose_confidence,
    fit_temperatures,
    front_area,
    margin,
    max_probability,
    negative_entropy,
    score_exits,
)
from tests.unit.exits.examples import costs

THIRDS = torch.tensor([[math.log(4), math.log(2), math.log(2)]])  # probabilities 1/2, 1/4, 1/4


def random_logits(num_exits: int, num_images: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Later exits see more; each is far too sure of itself."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_images,), generator=generator)
    logits = torch.randn(num_exits, num_images, num_classes, generator=generator)
    signal = torch.linspace(1, 3, num_exits)[:, None] + torch.randn(num_images, generator=generator)
    logits[:, torch.arange(num_images), labels] += signal
    return 3 * logits, labels


def test_measures_worked_by_hand() -> None:
    assert max_probability(THIRDS).item() == pytest.approx(0.5)
    assert margin(THIRDS).item() == pytest.approx(0.25)
    assert negative_entropy(THIRDS).item() == pytest.approx(-1.5 * math.log(2))
    hot = Confidence("max_probability", (1.0, 0.5))  # squares odds: 4, 1, 1
    assert hot(THIRDS, 0).item() == pytest.approx(0.5)
    assert hot(THIRDS, 1).item() == pytest.approx(4 / 6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_measures_are_stable_and_float32_for_every_type(measure: Any, dtype: torch.dtype) -> None:
    logits = torch.tensor([[30000.0, 0.0, -30000.0], [-30000.0, -30000.0, -30000.0]], dtype=dtype)
    sure, unsure = Confidence(measure, (2.0,))(logits, 0)
    assert sure.dtype == torch.float32
    assert sure.item() == {"max_probability": 1, "margin": 1, "negative_entropy": 0}[measure]
    lowest = {"max_probability": 1 / 3, "margin": 0, "negative_entropy": -math.log(3)}[measure]
    assert unsure.item() == pytest.approx(lowest, rel=1e-6)


def test_the_plain_one_is_the_papers_bit_for_bit() -> None:
    logits, labels = random_logits(3, 200, 10)
    assert Confidence() == PLAIN
    assert torch.equal(PLAIN(logits[1], 1), max_probability(logits)[1])
    assert np.array_equal(score_exits(logits, labels).confidence, max_probability(logits).numpy())


def test_a_single_class_is_certain() -> None:
    assert [Confidence(measure)(torch.zeros(1, 1), 0).item() for measure in MEASURES] == [1, 1, 0]


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_no_number_stays_none(measure: Any) -> None:
    assert math.isnan(Confidence(measure)(torch.tensor([[math.nan, 0.0]]), 0).item())


def test_confidences_go_through_json() -> None:
    for confidence in (PLAIN, Confidence("negative_entropy", (0.5, 1.25))):
        assert Confidence.from_dict(json.loads(json.dumps(confidence.to_dict()))) == confidence
    with pytest.raises(ValueError, match=r"^a confidence must have a measure and temperatures, got others"):
        Confidence.from_dict({"measure": "margin"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            ("energy",),
            "measure must be a known one, got 'energy'; choose from max_probability, margin, negative_entropy",
        ),
        (("margin", (1.0, 0.0)), "temperatures must be positive and finite, got 1, 0"),
        (("margin", (math.inf,)), "temperatures must be positive and finite, got inf"),
    ],
)
def test_confidences_that_are_none(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Confidence(*values)


def test_recipes_name_the_measures_there_are() -> None:
    choices = get_args(ExitsConfig.__annotations__["confidence"])
    assert choices == ("auto", *MEASURES)


def likelihood(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()


def test_temperatures_are_the_likeliest() -> None:
    logits, labels = random_logits(3, 3000, 10)
    for rows, temperature in zip(logits, fit_temperatures(logits, labels), strict=True):
        best = likelihood(rows, labels, temperature)
        grid = [likelihood(rows, labels, trial) for trial in np.geomspace(0.05, 20, 200)]
        assert best <= min(grid)
        assert temperature > 1.2  # logits were made three times too large


def test_temperatures_undo_a_scale() -> None:
    logits, labels = random_logits(2, 500, 5)
    plain, scaled = fit_temperatures(logits, labels), fit_temperatures(logits / 2, labels)
    assert scaled == pytest.approx([temperature / 2 for temperature in plain], rel=1e-4)


def test_temperatures_stay_within_bounds() -> None:
    logits, labels = 5 * torch.eye(4)[None], torch.arange(4)
    assert fit_temperatures(logits, labels) == pytest.approx([0.05], rel=1e-3)  # all right: the surer the likelier
    assert fit_temperatures(-logits, labels) == pytest.approx([20], rel=1e-3)  # all wrong
    assert fit_temperatures(torch.zeros(1, 4, 4), labels)[0] > 0  # nothing to tell


def test_an_area_worked_by_hand() -> None:
    def point(macs: float, accuracy: float) -> FrontPoint:
        return FrontPoint(macs=macs, accuracy=accuracy, thresholds=(0.5, -math.inf), exit_shares=(0.5, 0.5))

    front = Front((point(1e6, 0.5), point(4e6, 0.75)))
    assert front_area(front, (1e6, 8e6)) == pytest.approx((2 * 0.5 + 1 * 0.75) / 3)
    assert front_area(front, (1e6, 4e6)) == pytest.approx(0.5)
    assert front_area(Front((point(1e6, 0.5),)), (1e6,)) == 0.5


def test_the_choice_has_the_largest_area() -> None:
    logits, labels = random_logits(3, 3000, 20)
    macs = costs(3)
    choice = choose_confidence(logits, labels, macs)
    assert list(choice.areas) == [*MEASURES, *(f"tempered_{measure}" for measure in MEASURES)]
    assert choice.areas[choice.confidence.name] == max(choice.areas.values())
    front = calibrated_front(score_exits(logits, labels, choice.confidence), macs)
    assert choice.areas[choice.confidence.name] == front_area(front, macs)


def test_of_equal_ones_the_plain_one_is_taken() -> None:
    logits, labels = random_logits(2, 400, 2)  # of two classes all measures rank alike, with and without temperatures
    choice = choose_confidence(logits / 3, labels, costs(2))
    assert choice.confidence == PLAIN
    assert max(choice.areas.values()) - min(choice.areas.values()) < 1e-3  # but for float32's rounding


def test_a_measure_can_be_named_and_a_single_exit_needs_none() -> None:
    logits, labels = random_logits(2, 100, 5)
    choice = choose_confidence(logits, labels, costs(2), "margin")
    assert choice.confidence == Confidence("margin")
    assert list(choice.areas) == ["margin"]
    assert choose_confidence(logits[:1], labels, costs(1)).confidence == PLAIN
