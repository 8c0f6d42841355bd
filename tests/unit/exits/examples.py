"""Scores for the tests of exits: small ones worked by hand, and random ones that look like a real cascade's."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from dvt.exits import ExitScores


def scores(confidence: Sequence[Sequence[float]], correct: Sequence[Sequence[int]]) -> ExitScores:
    return ExitScores(confidence=np.array(confidence, dtype=np.float32), correct=np.array(correct, dtype=bool))


# Four images, two exits: exit 1 is right about images 0 and 1 and surest of them, exit 2 is right about all but 1.
FOUR_IMAGES = scores([[0.9, 0.8, 0.6, 0.5], [0.7, 0.9, 0.95, 0.6]], [[1, 1, 0, 0], [1, 0, 1, 1]])


def cascade_scores(num_exits: int, num_images: int, seed: int, levels: int = 0) -> ExitScores:
    """Later exits are right more often, and confidence tells; `levels` above 0 rounds it so that images tie."""
    generator = np.random.default_rng(seed)
    strength = np.linspace(0.55, 0.95, num_exits)[:, None]
    margin = strength - generator.random(num_images) + 0.1 * generator.standard_normal((num_exits, num_images))
    confidence = 1 / (1 + np.exp(-6 * margin))
    if levels:
        confidence = np.round(confidence * levels) / levels
    return ExitScores(confidence=confidence.astype(np.float32), correct=margin > 0)


@st.composite
def random_scores(draw: st.DrawFn, max_levels: int = 8) -> ExitScores:
    return cascade_scores(
        num_exits=draw(st.integers(1, 6)),
        num_images=draw(st.integers(1, 60)),
        seed=draw(st.integers(0, 2**32 - 1)),
        levels=draw(st.integers(0, max_levels)),
    )


def costs(num_exits: int) -> tuple[float, ...]:
    return tuple(1e6 * (index + 1) ** 2 for index in range(num_exits))
