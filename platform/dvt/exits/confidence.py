"""How sure an exit is of an image: the largest probability, the margin, or the negative entropy, after a temperature.

The largest softmax probability is the confidence of Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021,
section 3.1. The margin to the second class and the entropy are the usual other ones. A temperature divides an exit's
logits first (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017); with more than two classes that
changes which images come out surer than others. Simulated and really leaving early must take their confidence from
here alike, or images at a threshold would part ways.

Shapes: E exits, B images of a batch, C classes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from torch import Tensor

Measure = Literal["max_probability", "margin", "negative_entropy"]
MEASURES: tuple[Measure, ...] = get_args(Measure)


@dataclass(frozen=True)
class Confidence:
    """A measure of how sure an exit is, with each exit's own temperature; without any, that of the paper.

    Raises:
        ValueError: If the measure is none, or a temperature is not positive and finite.
    """

    measure: Measure = "max_probability"
    temperatures: tuple[float, ...] = ()  # (E,), what logits are divided by; none given is 1 at every exit

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be a known one, got {self.measure!r}; choose from {', '.join(MEASURES)}")
        if not all(math.isfinite(temperature) and temperature > 0 for temperature in self.temperatures):
            told = ", ".join(f"{temperature:g}" for temperature in self.temperatures)
            raise ValueError(f"temperatures must be positive and finite, got {told}")

    @property
    def name(self) -> str:
        """The measure, `tempered` before it where there are temperatures; as tables and metrics call it."""
        return f"tempered_{self.measure}" if self.temperatures else self.measure

    def __call__(self, logits: Tensor, exit_index: int) -> Tensor:
        """How sure one exit is.

        Args:
            logits: Of that exit, (B, C), of any floating type and on any device.
            exit_index: From 0.

        Returns:
            Float32 of shape (B,), a larger number is surer; NaN where a logit is not a number.
        """
        logits = logits.detach().float()
        if self.temperatures:
            logits = logits / self.temperatures[exit_index]
        match self.measure:
            case "max_probability":
                return max_probability(logits)
            case "margin":
                return margin(logits)
            case "negative_entropy":
                return negative_entropy(logits)

    def check(self, num_exits: int) -> None:
        """Refuse temperatures that are not one an exit.

        Raises:
            ValueError: If there are some and their number is not that of the exits.
        """
        if self.temperatures and len(self.temperatures) != num_exits:
            raise ValueError(f"temperatures must be one for each of {num_exits} exits, got {len(self.temperatures)}")

    def to_dict(self) -> dict[str, Any]:
        """The confidence in JSON's own types."""
        return {"measure": self.measure, "temperatures": list(self.temperatures)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The confidence that `to_dict` gave `data` from.

        Raises:
            ValueError: If a field is missing or is not what it should be.
        """
        try:
            return cls(data["measure"], tuple(float(temperature) for temperature in data["temperatures"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"a confidence must have a measure and temperatures, got others ({error})") from error


PLAIN = Confidence()  # the paper's; what is meant wherever none is named


def max_probability(logits: Tensor) -> Tensor:
    """The largest softmax probability of each row, the confidence of the paper.

    Args:
        logits: Unnormalised scores of shape (..., C), of any floating type and on any device.

    Returns:
        Float32 confidences of shape (...), from 1/C to 1, NaN where a logit is not a number. Computed after
        subtracting the largest logit, so that no exponential overflows.
    """
    logits = logits.detach().float()
    largest = logits.amax(dim=-1, keepdim=True)  # (..., 1)
    return (logits - largest).exp().sum(dim=-1).reciprocal()  # the largest's own exponential is exactly 1


def margin(logits: Tensor) -> Tensor:
    """How much more probable the first class is than the second: (..., C) to (...), float32 from 0 to 1."""
    probs = logits.detach().float().softmax(dim=-1)
    if probs.shape[-1] == 1:
        return probs[..., 0]
    best = probs.topk(2, dim=-1).values  # (..., 2)
    return best[..., 0] - best[..., 1]


def negative_entropy(logits: Tensor) -> Tensor:
    """The sum of p log p over classes, in nats: (..., C) to (...), float32 from -log C to 0."""
    log_probs = logits.detach().float().log_softmax(dim=-1)
    return (log_probs.exp() * log_probs).sum(dim=-1)


def fit_temperatures(logits: Tensor, labels: Tensor, least: float = 0.05, most: float = 20.0) -> tuple[float, ...]:
    """The temperature of each exit with the least mean negative log-likelihood of the labels.

    It is convex in 1 / temperature, so Newton's method with a bracket finds the least one; in float64, a few thousand
    images at a time.

    Args:
        logits: Of calibration images, (E, B, C), of any floating type.
        labels: Class indices, (B,).
        least: The smallest temperature there may be; reached where every image is right.
        most: The largest; reached where logits tell nothing.

    Returns:
        (E,) temperatures, to six digits.
    """
    return tuple(_fit_temperature(rows, labels, least, most) for rows in logits)


def _fit_temperature(logits: Tensor, labels: Tensor, least: float, most: float) -> float:
    low, high = 1 / most, 1 / least  # of 1 / temperature
    sharpness = 1.0
    for _ in range(60):
        slope, curvature = _slope(logits, labels, sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        newton = sharpness - slope / curvature if curvature > 0 else math.inf
        chosen = newton if low < newton < high else math.sqrt(low * high)
        is_found = abs(chosen - sharpness) <= 1e-7 * sharpness
        sharpness = chosen
        if is_found:
            break
    return float(f"{1 / sharpness:.6g}")


def _slope(logits: Tensor, labels: Tensor, sharpness: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood by 1 / temperature."""
    slope = curvature = 0.0
    for rows, classes in zip(logits.split(4096), labels.to(logits.device).split(4096), strict=True):
        scores = rows.detach().double()  # (b, C)
        probs = (sharpness * scores).softmax(dim=-1)
        mean = (probs * scores).sum(dim=-1)  # (b,)
        slope += float((mean - scores.gather(1, classes[:, None])[:, 0]).sum())
        curvature += float((probs * (scores - mean[:, None]).square()).sum())
    return slope / len(labels), curvature / len(labels)
