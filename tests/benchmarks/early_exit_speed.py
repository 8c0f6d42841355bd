"""How much of the saving in multiply-adds leaving early turns into time, alternating in one run.

By hand: PYTHONPATH=platform python -m tests.benchmarks.early_exit_speed [--batches 1 32 128 1024] [--rounds 5].

Thresholds let 60, 25 and 15 % of the images leave at the three exits of T2T-ViT-12 at 224 pixels. `EarlyExit` is
compared with the same cascade with all stages always run, and with a static T2T-ViT-12 of 14x14 tokens; in batches of 1
each of 20 images is classified for itself. Compacting, resizing and waiting for the device are inside the clock. A
share is the speed-up over the saving in multiply-adds: at 1, every multiply-add that is saved saves its time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dvt.config import StageConfig
from dvt.exits import Thresholds, exit_indices, max_probability, thresholds_for_shares
from dvt.inference import EarlyExit
from dvt.models import VARIANTS, Cascade, macs_per_exit

VARIANT = "dvt_t2t_vit_12"
SHARES = (0.60, 0.25, 0.15)
SINGLES = 20  # images that are classified one by one
PART = 32
BARS: dict[str, dict[int, float]] = {"all stages": {1: 0.85, 128: 0.95}, "static 14x14": {128: 0.90}}


def run(batch: int, device: str, rounds: int, compiled: bool) -> None:
    """Measure one batch size and print a line for each rival."""
    torch.manual_seed(0)
    config = VARIANTS[VARIANT]
    cascade = _on(Cascade(config), device, compiled)
    static = _on(Cascade(replace(config, stages=(StageConfig(token_grid=14),))), device, compiled)
    images = torch.randn(max(batch, SINGLES), 3, 224, 224, generator=torch.Generator().manual_seed(1)).to(device)
    parts = images.split(batch)
    thresholds = _thresholds(cascade, images)
    engine = EarlyExit(cascade, thresholds)
    exits = torch.cat([engine(part).exit_index for part in parts])
    shares = exits.bincount(minlength=len(SHARES)).double() / len(exits)
    early = sum(share * macs for share, macs in zip(shares.tolist(), macs_per_exit(config), strict=True))
    sides: dict[str, Callable[[Tensor], object]] = {"early": engine, "all stages": cascade, "static 14x14": static}
    if batch > PART:  # a rival that is as kind to a processor's cache as the engine
        sides[f"all stages, {PART} at a time"] = lambda part: [cascade(few) for few in part.split(PART)]
    seconds = _alternating(sides, parts, device, rounds)
    told = " / ".join(f"{100 * share:.0f}" for share in shares.tolist())
    print(f"{device}, batch {batch}, {told} % leave at the exits:")
    for name in (name for name in sides if name != "early"):
        saved = macs_per_exit(static.config if name == "static 14x14" else config)[-1] / early
        ratios = [rival / ours for rival, ours in zip(seconds[name], seconds["early"], strict=True)]
        faster = statistics.median(ratios)
        bar = BARS.get(name, {}).get(batch) if device == "cpu" else None
        spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
        told_bar = "" if bar is None else f" (bar {bar:.2f})"
        print(f"  than {name}: {faster:.2f} times as fast, {spread}; {saved:.2f} times fewer MACs;", end=" ")
        print(f"share {faster / saved:.2f}{told_bar}", flush=True)


def _on(cascade: Cascade, device: str, compiled: bool) -> Cascade:
    cascade = cascade.to(device).eval()
    if compiled:
        cascade.compile_stages()
    return cascade


@torch.inference_mode()
def _thresholds(cascade: Cascade, images: Tensor) -> Thresholds:
    """Thresholds of the shares; between two images' confidences, where rounding cannot decide."""
    logits = torch.cat([cascade(part) for part in images.split(PART)], dim=1)
    confidence = max_probability(logits).cpu().numpy()
    wanted = thresholds_for_shares(confidence, SHARES)
    undecided, between = exit_indices(confidence, wanted), []
    for index, threshold in enumerate(wanted[:-1]):
        below = confidence[index][(undecided > index)]
        between.append((threshold + float(below.max())) / 2)
    return (*between, wanted[-1])


@torch.inference_mode()
def _alternating(
    sides: dict[str, Callable[[Tensor], object]], parts: tuple[Tensor, ...], device: str, rounds: int
) -> dict[str, list[float]]:
    """Seconds for all parts, a side and round; the sides take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            for part in parts:
                side(part)
            if device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure on the CPU, and on the GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {VARIANT}")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for batch in asked.batches:
            run(batch, device, asked.rounds, compiled=device == "cuda")


if __name__ == "__main__":
    main()
