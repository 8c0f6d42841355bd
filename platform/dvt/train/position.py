"""Where a run stands among its images: the loader's position, which is part of the training state.

It counts images of the epoch's order and not batches. What is left of an epoch can so be divided over another number
of workers, or into batches of another size, and every image of it is still seen once. Images at the end of an epoch
that do not fill a step of all workers are left out; of the order, new in each epoch, these are other images each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dvt.config import ConfigError, Problem, Recipe
from dvt.data import Skipped


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run is with an epoch.

    Attributes:
        epoch: From 0; the number of epochs where there is none left.
        images: Images of the epoch's order that all workers together have trained on.
        skipped: Images of the epoch that could not be read so far.
    """

    epoch: int = 0
    images: int = 0
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def after(cls, step: int, steps_per_epoch: int, images_per_step: int) -> Self:
        """The position after a step of a run in which every step had as many images."""
        return cls(epoch=step // steps_per_epoch, images=step % steps_per_epoch * images_per_step)

    @classmethod
    def from_plain(cls, tree: Mapping[str, Any]) -> Self:
        """What `to_plain` gave."""
        return cls(
            epoch=tree["epoch"], images=tree["images"], skipped=tuple(Skipped(*each) for each in tree["skipped"])
        )

    def to_plain(self) -> dict[str, Any]:
        """As plain values, which a checkpoint may hold."""
        return {"epoch": self.epoch, "images": self.images, "skipped": [list(each) for each in self.skipped]}


def accum_steps(recipe: Recipe, world_size: int) -> int:
    """Micro-batches of one worker in a step.

    Where the number of workers is a range, those of a step are as many as the most workers have together, shared out
    among however many there are: images and learning rate of a step do not change with them.

    Raises:
        ConfigError: If they cannot be shared out evenly.
    """
    if not recipe.cluster.is_elastic:
        return recipe.train.grad_accum_steps
    if recipe.most_micro_batches % world_size:
        told = f"the {recipe.most_micro_batches} micro-batches of a step"
        raise ConfigError([Problem("cluster.num_workers", f"must divide {told}, got {world_size} workers")])
    return recipe.most_micro_batches // world_size


def images_per_step(recipe: Recipe, world_size: int) -> int:
    """Images of one optimizer step, over all workers."""
    return recipe.train.micro_batch_size * accum_steps(recipe, world_size) * world_size
