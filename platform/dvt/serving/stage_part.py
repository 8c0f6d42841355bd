"""A part of the cascade at work: groups of images from many requests run as one batch, and who is sure leaves.

The rule to leave by is that of `dvt.inference.EarlyExit`; here each image has thresholds of its own, as the requests
that share a batch have budgets of their own. Groups travel between processes as arrays: what the next stage reads of
the images that stay, and nothing of those that left.

Shapes: E exits, n images of a group, c image channels, S image side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvt.exits import Confidence
from dvt.models import Cascade, StageOutput

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageGroup:
    """Images that travel together, with what the stage before computed of them."""

    images: NDArray[np.float32]  # (n, c, S, S), normalised
    thresholds: NDArray[np.float64]  # (n, E), of each image's own budget
    upstream: tuple[NDArray[np.float32], ...] = ()  # logits, features and relation maps; none before the first stage

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Rows) -> "ImageGroup":
        """A copy of some rows, in their order."""
        return ImageGroup(self.images[rows], self.thresholds[rows], tuple(each[rows] for each in self.upstream))

    @classmethod
    def joined(cls, groups: Sequence["ImageGroup"]) -> "ImageGroup":
        """All rows of the groups, one group behind the other."""
        if len(groups) == 1:
            return groups[0]
        return cls(
            np.concatenate([group.images for group in groups]),
            np.concatenate([group.thresholds for group in groups]),
            tuple(map(np.concatenate, zip(*(group.upstream for group in groups), strict=True))),
        )


@dataclass(frozen=True, eq=False)
class Leavers:
    """What became of the images of a group that left."""

    rows: Rows  # which of the group
    label: Rows  # most probable class
    prob: NDArray[np.float32]  # of the label
    confidence: NDArray[np.float32]  # what the threshold was compared with
    exit_index: Rows  # from 0

    def at(self, rows: Rows, first: int) -> "Leavers":
        """Some of them, as rows of a group that began at row `first` of this one."""
        return Leavers(
            self.rows[rows] - first, self.label[rows], self.prob[rows], self.confidence[rows], self.exit_index[rows]
        )


@dataclass(frozen=True, eq=False)
class PartResult:
    """What a part made of a group."""

    left: Leavers
    staying: Rows  # rows of the group that need the next part
    survivors: ImageGroup | None  # these, ready for it; None where all left


class StagePart:
    """Some stages of a cascade that follow each other, on one device.

    Args:
        cascade: The model, put into evaluation mode; other stages than these are not touched.
        confidence: What thresholds are of.
        stages: Which, from 0; the first of them reads what the one before it gave.
    """

    def __init__(self, cascade: Cascade, confidence: Confidence, stages: range) -> None:
        self._cascade = cascade.eval()
        self._confidence = confidence
        self._stages = stages
        self._device = next(cascade.stages[stages[0]].parameters()).device

    def __call__(self, groups: Sequence[ImageGroup]) -> list[PartResult]:
        """Run all groups as one batch; returns one result a group, in their order."""
        group = ImageGroup.joined(groups)
        leavers: list[Leavers] = []
        staying = np.arange(len(group))
        for stage_index in self._stages:
            if not len(staying):
                break
            left, group = self._run(stage_index, group, staying)
            leavers.append(left)
            staying = np.setdiff1d(staying, left.rows, assume_unique=True)
        return _apart([len(each) for each in groups], _all(leavers), staying, group)

    @torch.inference_mode()
    def _run(self, stage_index: int, group: ImageGroup, rows: Rows) -> tuple[Leavers, ImageGroup]:
        """Run one stage on the images of `rows`; returns who left, and the others with what the stage computed."""
        upstream = None
        if group.upstream:
            logits, features, *relations = map(self._there, group.upstream)
            upstream = StageOutput(logits, features, tuple(relations))
        output = self._cascade.stage(stage_index, self._there(group.images), upstream)
        confidence = self._confidence(output.logits, stage_index)  # (n,)
        is_last = stage_index + 1 == self._cascade.config.num_exits  # takes even what has no number for a confidence
        told = confidence.cpu().numpy()
        leaves = (told.astype(np.float64) >= group.thresholds[:, stage_index]) | is_last
        gone, here = np.flatnonzero(leaves), np.flatnonzero(~leaves)
        logits = output.logits[torch.from_numpy(gone).to(self._device)].float()
        label = logits.argmax(dim=-1)
        prob = logits.softmax(dim=-1).gather(1, label[:, None])[:, 0]
        left = Leavers(
            rows[gone], label.cpu().numpy(), prob.cpu().numpy(), told[gone], np.full(len(gone), stage_index, np.int64)
        )
        index = torch.from_numpy(here).to(self._device)
        given = (output.logits, output.features, *output.relations) if len(here) else ()
        kept = tuple(each.index_select(0, index).cpu().numpy() for each in given)
        return left, ImageGroup(group.images[here], group.thresholds[here], kept)

    def _there(self, array: NDArray[np.float32]) -> Tensor:
        # What comes from another process lies in shared memory that cannot be written, and torch warns of that.
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.to(self._device)


def _all(leavers: Sequence[Leavers]) -> Leavers:
    """The leavers of stage after stage, in the order of their rows."""
    names = ("rows", "label", "prob", "confidence", "exit_index")
    together = Leavers(*(np.concatenate([getattr(each, name) for each in leavers]) for name in names))
    return together.at(np.argsort(together.rows), 0)


def _apart(sizes: Sequence[int], left: Leavers, staying: Rows, survivors: ImageGroup) -> list[PartResult]:
    """Cut what became of the joined groups into what became of each."""
    ends = np.cumsum(sizes)
    results = []
    for end, size in zip(ends.tolist(), sizes, strict=True):
        first = end - size
        gone = np.arange(*np.searchsorted(left.rows, (first, end)))
        here = np.arange(*np.searchsorted(staying, (first, end)))
        stays = survivors.at(here) if len(here) else None
        results.append(PartResult(left.at(gone, first), staying[here] - first, stays))
    return results
