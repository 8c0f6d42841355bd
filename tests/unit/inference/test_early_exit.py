import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.exits import Confidence, exit_indices, max_probability
from dvt.inference import EarlyExit, EarlyExitResult
from dvt.models import Cascade, StageOutput

CONFIG = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=4,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=3), StageConfig(token_grid=4)),
)


class CountingCascade(Cascade):
    """Notes how many images each stage was run on."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__(config)
        self.runs: list[tuple[int, int]] = []

    def stage(self, stage_index: int, images: Tensor, upstream: StageOutput | None = None) -> StageOutput:
        self.runs.append((stage_index, len(images)))
        return super().stage(stage_index, images, upstream)


def make_cascade() -> CountingCascade:
    generator = torch.Generator().manual_seed(3)
    cascade = CountingCascade(CONFIG)
    with torch.no_grad():
        for parameter in cascade.parameters():  # far from uniform predictions, so that confidences differ
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return cascade.eval()


CASCADE = make_cascade()
IMAGES = torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(4))
with torch.no_grad():
    LOGITS = CASCADE(IMAGES)
CONFIDENCE = max_probability(LOGITS)
THRESHOLD = st.one_of(st.sampled_from([-math.inf, math.inf]), st.floats(0.2, 1.0))


def simulated(thresholds: Sequence[float], chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Exits taken, (B,), and logits there, (B, C), when leaving early is simulated on `Cascade.forward`."""
    if not chosen:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)
    exits = torch.from_numpy(exit_indices(CONFIDENCE[:, chosen].numpy(), thresholds))
    return exits, LOGITS[exits, torch.tensor(chosen)]


def compare(result: EarlyExitResult, thresholds: Sequence[float], chosen: list[int]) -> None:
    """Leaving early for real gives what is simulated."""
    exits, expected = simulated(thresholds, chosen)
    torch.testing.assert_close(result.logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.probs, expected.softmax(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.confidence, max_probability(expected), rtol=1e-5, atol=1e-5)
    assert result.exit_index.tolist() == exits.tolist()
    assert result.label.tolist() == expected.argmax(-1).tolist()


def are_apart(thresholds: Sequence[float]) -> bool:
    """Whether rounding cannot decide an exit: no image's confidence lies at a threshold itself."""
    return all(abs(CONFIDENCE[k] - thresholds[k]).min() > 1e-5 for k in range(2))


SIZE = st.sampled_from([1, 2, 3, 7, 128])
BATCH = st.sampled_from([0, 1, 2, 7, 128]).flatmap(
    lambda size: st.lists(st.integers(0, len(IMAGES) - 1), min_size=size, max_size=size)
)


@settings(deadline=None, max_examples=100)
@given(
    thresholds=st.tuples(THRESHOLD, THRESHOLD),
    chosen=BATCH,
    sizes=st.tuples(SIZE, SIZE, SIZE),
)
def test_it_gives_what_simulating_on_forward_gives(
    thresholds: tuple[float, float], chosen: list[int], sizes: tuple[int, int, int]
) -> None:
    assume(are_apart(thresholds))
    bounds = (*thresholds, -math.inf)
    engine = EarlyExit(CASCADE, bounds, stage_batch_size=sizes)
    for _ in range(2):  # the second call finds the first one's queues
        compare(engine(IMAGES[chosen]), bounds, chosen)


@settings(deadline=None, max_examples=100)
@given(
    thresholds=st.tuples(THRESHOLD, THRESHOLD),
    batches=st.lists(st.lists(st.integers(0, len(IMAGES) - 1), max_size=7), max_size=12),
    sizes=st.tuples(SIZE, SIZE, SIZE),
    max_pending=st.sampled_from([7, 10, 1000]),
    max_wait_s=st.sampled_from([0.0, 1e-4, 60.0, math.inf]),
)
def test_a_stream_gives_the_same_batch_by_batch(
    thresholds: tuple[float, float],
    batches: list[list[int]],
    sizes: tuple[int, int, int],
    max_pending: int,
    max_wait_s: float,
) -> None:
    assume(are_apart(thresholds))
    bounds = (*thresholds, -math.inf)
    engine = EarlyExit(CASCADE, bounds, stage_batch_size=sizes, max_wait_s=max_wait_s)
    results = list(engine.stream((IMAGES[batch] for batch in batches), max_pending=max_pending))
    assert [len(result) for result in results] == [len(batch) for batch in batches]
    for result, batch in zip(results, batches, strict=True):
        compare(result, bounds, batch)


@pytest.mark.parametrize(("first", "second"), list(product((-math.inf, math.inf), repeat=2)))
def test_all_or_none_leave(first: float, second: float) -> None:
    thresholds = (first, second, -math.inf)
    result = EarlyExit(CASCADE, thresholds)(IMAGES)
    compare(result, thresholds, list(range(len(IMAGES))))
    assert torch.equal(result.logits, LOGITS[result.exit_index[0]])  # the batches are the same, and so is every bit


def test_a_stage_sees_only_the_images_that_are_left() -> None:
    first = CONFIDENCE[0].sort().values[9:11].mean().item()  # between the 10th and the 11th: 10 go on
    CASCADE.runs.clear()
    result = EarlyExit(CASCADE, (first, -math.inf, -math.inf))(IMAGES)
    assert CASCADE.runs == [(0, 24), (1, 10)]
    assert result.exit_index.bincount().tolist() == [14, 10]


def test_survivors_of_several_batches_fill_later_stages() -> None:
    bounds = (CONFIDENCE[0].median().item() + 1e-4, math.inf, -math.inf)  # 12 of 24 go on
    CASCADE.runs.clear()
    engine = EarlyExit(CASCADE, bounds, stage_batch_size=(4, 6, 8))
    results = list(engine.stream(IMAGES.split(3)))
    later = [run for run in CASCADE.runs if run[0] > 0]
    assert later == [(1, 6), (1, 6), (2, 8), (2, 4)]  # stage 3 is first full in the middle of stage 2's second run
    compare(EarlyExitResult(*map(torch.cat, zip(*map(fields, results), strict=True))), bounds, list(range(24)))


def fields(result: EarlyExitResult) -> tuple[Tensor, ...]:
    return result.logits, result.confidence, result.label, result.exit_index


def test_a_stream_that_pauses_gives_what_waited_too_long() -> None:
    more = threading.Event()

    def paused() -> Iterator[Tensor]:
        yield IMAGES[:5]
        assert more.wait(30)
        yield IMAGES[5:7]

    engine = EarlyExit(CASCADE, (math.inf, math.inf, -math.inf), stage_batch_size=100, max_wait_s=0.01)
    results = engine.stream(paused())
    compare(next(results), engine.thresholds, list(range(5)))  # while the second batch is not even made
    more.set()
    compare(next(results), engine.thresholds, [5, 6])
    assert list(results) == []


def test_memory_of_a_stream_is_bounded_however_long_an_image_waits() -> None:
    hardest = int(CONFIDENCE[0].argmin())
    bounds = (CONFIDENCE[0].sort().values[:2].mean().item(), math.inf, -math.inf)  # the hardest alone goes on
    others = [k for k in range(24) if k != hardest]
    asked: list[int] = []

    def batches() -> Iterator[Tensor]:
        for number, image in enumerate([hardest, *others]):
            asked.append(number)
            yield IMAGES[[image]]

    results = EarlyExit(CASCADE, bounds, stage_batch_size=100).stream(batches(), max_pending=8)
    assert next(results).exit_index.tolist() == [2]
    assert asked == list(range(9))  # the ninth found no room, so the first was run alone


def test_what_makes_batches_fails_where_they_are_asked_for() -> None:
    def failing() -> Iterator[Tensor]:
        yield IMAGES[:1]
        raise OSError("the disk is gone")

    for max_wait_s in (math.inf, 0.0):
        with pytest.raises(OSError, match="the disk is gone"):
            list(EarlyExit(CASCADE, (0.0, 0.0, -math.inf), max_wait_s=max_wait_s).stream(failing()))


def test_threads_can_share_an_engine() -> None:
    bounds = (CONFIDENCE[0].median().item() + 1e-4, CONFIDENCE[1].median().item() + 1e-4, -math.inf)
    engine = EarlyExit(CASCADE, bounds, stage_batch_size=4)
    parts = [list(range(start, 24, 3)) for start in range(3)] * 4
    with ThreadPoolExecutor(4) as pool:
        for part, result in zip(parts, pool.map(lambda part: engine(IMAGES[part]), parts), strict=True):
            compare(result, bounds, part)


def test_queues_follow_autocast() -> None:
    engine = EarlyExit(CASCADE, (math.inf, math.inf, -math.inf))
    exact = engine(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        rough = engine(IMAGES)
    torch.testing.assert_close(rough.logits, exact.logits, rtol=0, atol=0.3 * exact.logits.abs().max().item())
    torch.testing.assert_close(engine(IMAGES).logits, exact.logits)


def test_no_images_run_no_stage() -> None:
    CASCADE.runs.clear()
    result = EarlyExit(CASCADE, (0.5, 0.5, -math.inf))(IMAGES[:0])
    assert CASCADE.runs == []
    assert result.logits.shape == (0, 4)
    assert result.exit_index.shape == result.label.shape == result.confidence.shape == (0,)


def test_images_without_a_number_go_to_the_last_exit() -> None:
    images = IMAGES[:3].clone()
    images[1, 0, 5, 5] = math.nan
    result = EarlyExit(CASCADE, (0.0, 0.0, -math.inf))(images)
    assert result.exit_index.tolist() == [0, 2, 0]
    assert result.logits[1].isnan().all()
    assert result.confidence[1].isnan()


def test_a_training_model_is_put_into_evaluation() -> None:
    CASCADE.train()
    EarlyExit(CASCADE, (0.5, 0.5, -math.inf))
    assert not CASCADE.training


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ((0.5, -math.inf), "thresholds must hold one number for each of 3 exits, got 2"),
        ((math.nan, 0.5, -math.inf), "thresholds must be numbers or infinite, got nan, 0.5, -inf"),
        (
            (0.5, 0.5, 0.1),
            "thresholds must end with -inf, because the last exit takes what is left, got 0.1",
        ),
    ],
)
def test_bad_thresholds_are_told(thresholds: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        EarlyExit(CASCADE, thresholds)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_wait_s": -1.0}, "max_wait_s must be at least 0, got -1.0"),
        (
            {"stage_batch_size": (4, 0, 4)},
            "stage_batch_size must be one number of at least 1, or one for each exit, got 4, 0, 4",
        ),
        (
            {"stage_batch_size": (4, 4)},
            "stage_batch_size must be one number of at least 1, or one for each exit, got 4, 4",
        ),
    ],
)
def test_bad_options_are_told(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        EarlyExit(CASCADE, (0.5, 0.5, -math.inf), **options)
    assert str(caught.value) == sentence


def test_a_batch_larger_than_the_window_is_told() -> None:
    with pytest.raises(ValueError, match="batches must hold at most max_pending 4 images, got 24"):
        list(EarlyExit(CASCADE, (0.5, 0.5, -math.inf)).stream([IMAGES], max_pending=4))


def test_another_confidence_is_what_thresholds_are_compared_with() -> None:
    by = Confidence("margin", (0.5, 2.0, 1.0))
    sure = torch.stack([by(logits, index) for index, logits in enumerate(LOGITS)])
    thresholds = (float(sure[0].sort().values[11:13].mean()), float(sure[1].sort().values[11:13].mean()), -math.inf)
    result = EarlyExit(CASCADE, thresholds, by)(IMAGES)
    exits = exit_indices(sure.numpy(), thresholds)
    assert result.exit_index.tolist() == exits.tolist()
    torch.testing.assert_close(result.confidence, sure[exits, torch.arange(len(IMAGES))], rtol=1e-4, atol=1e-5)


def test_temperatures_of_another_number_of_exits() -> None:
    with pytest.raises(ValueError, match=r"^temperatures must be one for each of 3 exits, got 1$"):
        EarlyExit(CASCADE, (0.5, 0.5, -math.inf), Confidence("margin", (2.0,)))
