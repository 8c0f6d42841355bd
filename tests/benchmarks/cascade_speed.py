"""How much faster and leaner the cascade is than the published algorithm, same weights, alternating in one run.

By hand: PYTHONPATH=platform python -m tests.benchmarks.cascade_speed [--compile] [--rounds 7].

The naive side is `tests/naive_dvt.py`: relationships by reshapes, nearest interpolation and pooling, all attention
explicit. A ratio is the median over rounds, in each of which the sides run one after the other, with the least and the
largest. Peak memory is what a fresh process needs at most for one training step, above what it needs without a model.
"""

import argparse
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dvt.models import VARIANTS, Cascade
from tests.naive_dvt import naive_logits

Sides = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """A cascade and a batch on a device."""

    variant: str
    batch: int
    device: str

    def cascade(self) -> Cascade:
        torch.manual_seed(0)
        cascade = Cascade(replace(VARIANTS[self.variant], drop_path=0.0)).to(self.device)
        for module in cascade.modules():  # the naive side has no dropout
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return cascade

    def images(self) -> Tensor:
        size = VARIANTS[self.variant].image_size
        return torch.randn(self.batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(self.device)


def evaluation(case: Case, compiled: bool) -> Sides:
    """All exits of a batch, without gradients."""
    cascade, images = case.cascade().eval(), case.images()
    weights, config = dict(cascade.state_dict()), cascade.config
    sides: Sides = {"naive": lambda: naive_logits(weights, config, images), "dvt": lambda: cascade(images)}
    if compiled:
        fused = case.cascade().eval()
        fused.compile_stages()
        sides["dvt, compiled"] = lambda: fused(images)
    with torch.no_grad():
        naive, ours = sides["naive"](), sides["dvt"]()
        torch.testing.assert_close(ours, naive, rtol=0, atol=1e-4)
    return {name: torch.no_grad()(side) for name, side in sides.items()}


def training(case: Case) -> Sides:
    """A step: forward, the sum of the exits' losses, backward, AdamW."""
    return {"naive": _stepper(case, is_naive=True), "dvt": _stepper(case, is_naive=False)}


def _stepper(case: Case, is_naive: bool) -> Callable[[], None]:
    cascade, images = case.cascade().train(), case.images()
    labels = torch.arange(case.batch, device=case.device)
    optimizer = torch.optim.AdamW(cascade.parameters(), fused=True)
    weights = dict(cascade.named_parameters()) | dict(cascade.named_buffers())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = naive_logits(weights, cascade.config, images) if is_naive else cascade(images)
        loss = sum((nn.functional.cross_entropy(each, labels) for each in logits), torch.zeros((), device=case.device))
        loss.backward()
        optimizer.step()

    return step


def alternate(sides: Sides, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each side in each round; one round before them does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            _wait(device)
            start = time.perf_counter()
            side()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(case: Case, is_naive: bool) -> float:
    """Peak memory of one training step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_step_once, (case, is_naive))


def _step_once(case: Case, is_naive: bool) -> float:
    _stepper(replace(case, batch=1), is_naive)()  # loads the libraries
    gc.collect()
    before = _resident_kib("VmRSS")
    _stepper(case, is_naive)()
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return (_resident_kib("VmHWM") - before) / 2**20


def _resident_kib(field: str) -> int:
    """Linux's VmRSS, resident memory now, or VmHWM, its peak; getrusage would tell the peak of the parent, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="dvt_t2t_vit_12", choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {asked.variant}")
    for device in devices:
        for batch in (16, 64):
            case = Case(asked.variant, batch, device)
            _tell(
                f"{device}, evaluation, batch {batch}", alternate(evaluation(case, asked.compile), asked.rounds, device)
            )
        case = Case(asked.variant, 16, device)
        _tell(f"{device}, training step, batch 16", alternate(training(case), asked.rounds, device))
        peaks = {name: peak_gib(case, is_naive=name == "naive") for name in ("naive", "dvt")}
        print(
            f"{device}, peak memory of a training step, batch 16: {peaks['dvt']:.2f} of {peaks['naive']:.2f} GiB, "
            f"{peaks['dvt'] / peaks['naive']:.2f}"
        )


def _tell(what: str, seconds: dict[str, list[float]]) -> None:
    for name in list(seconds)[1:]:
        ratios = [naive / ours for naive, ours in zip(seconds["naive"], seconds[name], strict=True)]
        naive_s, ours_s = (statistics.median(seconds[side]) for side in ("naive", name))
        print(
            f"{what}: {name} {statistics.median(ratios):.2f} times as fast as naive, from {min(ratios):.2f} to "
            f"{max(ratios):.2f} (medians {naive_s:.3f} and {ours_s:.3f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
