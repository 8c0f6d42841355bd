"""Thresholds that lose at most so much against the full cascade, and are wrong about that with a stated probability.

Learn then test (Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test: Calibrating Predictive Algorithms to
Achieve Risk Control", 2021) with fixed-sequence testing. The calibration images are split in two by chance. One half
makes a path: the vectors of its own front, from the dearest to the cheapest. The other half walks along it and tests at
each vector, at the full level, whether the true loss is below what is tolerated; the first that fails ends the walk,
and the last that passed is taken. The path does not depend on the images tested on, so a false promise takes a false
pass at the first vector of the path whose true loss is too high, whose probability is at most 1 - level. A path without
images, such as one shared threshold, would leave all of them to test on, but its thresholds cost more.

The loss of an image is 1 where leaving early is wrong and the last exit right, -1 the other way round, else 0. Its mean
is the share of the first minus the share of the second, and each is bounded by Clopper and Pearson's exact binomial
bound, the first from above with four fifths of the error, the second from below with one. That holds for any images,
and is about as tight, by the leading terms, as bounds for variables from -1 to 1 that adapt to the variance (empirical
Bernstein, betting); tighter where leaving early is seldom right alone. Hoeffding's, which does not adapt, is half a
point wide at 240,000 images.

The promise is about images like the calibration images, for a model and a confidence that were chosen without those
tested on. A confidence is to be chosen on the first half of `split_calibration`. That a training run takes its best
checkpoint by the calibration images' accuracy, a choice among its epochs, is not covered by the proof.

Shapes: E exits, N images, P vectors of the path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dvt.exits.front import FrontPoint, checked_macs, measure_point
from dvt.exits.scores import ExitScores
from dvt.exits.solve import calibrated_front
from dvt.exits.thresholds import Thresholds, exit_indices, single_exit_thresholds, thresholds_as_json

NUM_STEPS = 100  # vectors of the path; more come closer to what can be had, fewer are tested faster
_SHARE_OF_LOSSES = 0.8  # of the error that is allowed: what is spent on bounding losses, the rest goes to gains


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """Thresholds with a promise: that they lose more than is tolerated has at most probability 1 - level."""

    thresholds: Thresholds  # (E,); the last exit for every image where nothing cheaper could be promised
    tolerated_loss: float  # accuracy below that of the last exit on every image, from 0 to 1
    level: float  # how sure the promise is, from 0 to 1
    bound: float  # upper bound on the loss that the test of these thresholds gave; at most what is tolerated
    macs: float  # mean multiply-adds an image, on the images tested
    num_tested: int  # images that the promise was tested on

    def to_dict(self) -> dict[str, Any]:
        """The guarantee in JSON's own types."""
        return asdict(self) | {"thresholds": thresholds_as_json(self.thresholds)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The guarantee that `to_dict` gave `data` from.

        Raises:
            ValueError: If a field is missing or is not what it should be.
        """
        try:
            return cls(**{**data, "thresholds": tuple(float(threshold) for threshold in data["thresholds"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"a guarantee must hold the fields of Guarantee, got others ({error})") from error


def split_calibration(num_images: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which calibration images make the path, and which are tested on; as equally many as can be.

    Whatever else is chosen before the test, such as the confidence, must be chosen on the first alone.
    """
    order = np.random.default_rng(seed).permutation(num_images)
    return np.sort(order[: num_images // 2]), np.sort(order[num_images // 2 :])


def guaranteed_thresholds(
    scores: ExitScores, macs: Sequence[float], tolerated_loss: float = 0.005, level: float = 0.95, seed: int = 0
) -> Guarantee:
    """The cheapest thresholds whose loss against the full cascade is promised to be tolerable.

    Args:
        scores: Of calibration images.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        tolerated_loss: Accuracy that may be lost against all images at the last exit, from 0 to 1.
        level: How sure the promise must be, between 0 and 1.
        seed: Of the split.

    Returns:
        The thresholds and what was found; all images at the last exit, which loses nothing, where nothing passed.

    Raises:
        ValueError: If an argument is not as stated.
    """
    costs = checked_macs(macs, scores.num_exits)
    if not 0 <= tolerated_loss <= 1:
        raise ValueError(f"tolerated_loss must be from 0 to 1, got {tolerated_loss:g}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level:g}")
    choosing, testing = (_some(scores, images) for images in split_calibration(scores.num_images, seed))
    last = single_exit_thresholds(scores.num_exits, scores.num_exits - 1)
    thresholds, bound, cost = last, 0.0, float(costs[-1])
    if choosing is not None and testing is not None and scores.num_exits > 1:
        path = [point.thresholds for point in _path(choosing, macs, tolerated_loss)]
        bounds = loss_bounds(*_losses_and_gains(testing, path), testing.num_images, 1 - level)
        num_passed = int(np.argmax(np.append(bounds, np.inf) > tolerated_loss))
        if num_passed > 0:
            thresholds, bound = path[num_passed - 1], float(bounds[num_passed - 1])
            cost = measure_point(testing, macs, thresholds).macs
    return Guarantee(
        thresholds=thresholds,
        tolerated_loss=tolerated_loss,
        level=level,
        bound=bound,
        macs=cost,
        num_tested=0 if testing is None else testing.num_images,
    )


def loss_bounds(
    losses: NDArray[np.int64], gains: NDArray[np.int64], num_images: int, error: float
) -> NDArray[np.float64]:
    """Upper bounds on true losses of accuracy, each of which holds with probability 1 - error.

    Args:
        losses: (P,), images that only the full cascade is right about.
        gains: (P,), images that only leaving early is right about.
        num_images: Images tested on.
        error: Probability that a bound may be too low, between 0 and 1.

    Returns:
        (P,), from -1 to 1.
    """
    above = _quantile(losses, num_images, error * _SHARE_OF_LOSSES)[1]
    below = _quantile(gains - 1, num_images, 1 - error * (1 - _SHARE_OF_LOSSES))[0]
    return above - np.where(gains == 0, 0.0, below)


def _some(scores: ExitScores, images: NDArray[np.int64]) -> ExitScores | None:
    return scores.select(images) if len(images) > 0 else None


def _path(choosing: ExitScores, macs: Sequence[float], tolerated_loss: float) -> list[FrontPoint]:
    """Vectors from dear to cheap, as far as they could pass at all."""
    front = calibrated_front(choosing, macs)
    lowest = choosing.top1[-1] - 2 * tolerated_loss
    places = [place for place, point in enumerate(front.points) if point.accuracy >= lowest]
    kept = type(front)(front.points[places[0] :]) if places else front
    return list(reversed(kept.thinned(NUM_STEPS).points))


def _losses_and_gains(testing: ExitScores, path: Sequence[Thresholds]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images that only the last exit, and that only leaving early is right about: (P,) each."""
    full = testing.correct[-1]
    images = np.arange(testing.num_images)
    early = [testing.correct[exit_indices(testing.confidence, thresholds), images] for thresholds in path]
    losses = [np.count_nonzero(full & ~right) for right in early]
    gains = [np.count_nonzero(~full & right) for right in early]
    return np.array(losses), np.array(gains)


def _quantile(
    counts: NDArray[np.int64], num_images: int, target: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which two probabilities a binomial number is at most each count with the target probability: (P,) each.

    The two are 2^-40 apart; who takes the outer one errs on the safe side.
    """
    numbers = np.arange(max(0, int(counts.max())) + 1)  # (n,)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_images + 1)))])
    ways = factorials[num_images] - factorials[numbers] - factorials[num_images - numbers]
    low, high = np.zeros(len(counts)), np.ones(len(counts))
    for _ in range(40):
        middle = (low + high)[:, None] / 2
        terms = np.exp(ways + numbers * np.log(middle) + (num_images - numbers) * np.log1p(-middle))  # (P, n)
        is_below = np.where(numbers <= counts[:, None], terms, 0).sum(axis=1) > target  # the more likely, the fewer
        low, high = np.where(is_below, middle[:, 0], low), np.where(is_below, high, middle[:, 0])
    return low, np.where(counts >= num_images, 1.0, high)
