"""The front on validation images."""

import math

import numpy as np

from dvt.exits import ExitScores, Front, FrontPoint, measure_point, split_calibration
from dvt.search.objective import EpochFront, point_within, validation_front


def some_scores(num_images: int) -> ExitScores:
    generator = np.random.default_rng(0)
    confidence = generator.random((2, num_images), dtype=np.float32)
    return ExitScores(confidence, generator.random((2, num_images)) < confidence)


def test_the_front_is_measured_on_other_images_than_it_is_chosen_on() -> None:
    scores, costs = some_scores(400), (1.0, 3.0)
    _, validating = split_calibration(400)
    front = validation_front(scores, costs)
    for point in front.points:
        assert measure_point(scores.select(validating), costs, point.thresholds) == point
    # What is chosen does not depend on the images it is measured on: all wrong there, all points are worth nothing.
    wrong = scores.correct.copy()
    wrong[:, validating] = False
    worthless = validation_front(ExitScores(scores.confidence, wrong), costs)
    assert [point.accuracy for point in worthless.points] == [0.0]


def test_the_dearest_point_within_a_budget() -> None:
    points = tuple(FrontPoint(macs, macs / 10, (-math.inf,), (1.0,)) for macs in (1.0, 2.0, 3.0))
    front = Front(points)
    assert point_within(front, 2.5) == points[1]
    assert point_within(front, 0.5) is None


def test_an_epoch_survives_json() -> None:
    front = Front((FrontPoint(1.0, 0.5, (0.25, -math.inf), (0.5, 0.5)),))
    epoch = EpochFront(epoch=3, hypervolume=0.4, top1=0.5, cost=1.0, train_s=12.5, front=front)
    assert EpochFront.from_dict(epoch.to_dict()) == epoch
