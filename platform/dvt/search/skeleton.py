"""A cascade without weights of its own, to be run on tensors that are made for each call.

Shapes: E exits, B batch, c image channels, S image side, C classes.
"""

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from dvt.config import CascadeConfig
from dvt.models import Cascade
from dvt.models.resize import GridResize
from dvt.models.sparse_rows import SparseRows
from dvt.models.stage import Stage
from dvt.models.tokenizers import LATER_SOFT_SPLIT, TokensToToken


class Skeleton:
    """A cascade without weights of its own: it takes any tensors of their shapes, and gradients go through them.

    `torch.func.functional_call` would take them away before the gradient, for which parts of a cascade are run again.

    Args:
        config: The cascade.
        device: Where its fixed matrices are.
    """

    def __init__(self, config: CascadeConfig, device: torch.device) -> None:
        with torch.device("meta"):  # so nothing is drawn, and nothing kept
            self.cascade = _BareCascade(config)
        self.shapes = [
            {name: tensor.shape for name, tensor in stage.state_dict().items()} for stage in self.cascade.stages
        ]
        self._places = [
            (module, name)
            for index, shapes in enumerate(self.shapes)
            for module, name in (_place(self.cascade.stages[index], path) for path in shapes)
        ]
        for module, name in self._places:
            module._parameters.pop(name, None)  # from now on a plain attribute
        for index, (grid, stage) in enumerate(zip(config.token_grids, self.cascade.stages, strict=True)):
            assert isinstance(stage, Stage)
            if stage.has_reuse:
                stage.resize = _grid_resize(config.token_grids[index - 1], grid, stage.num_prefix, device)
            if isinstance(stage.tokenizer, TokensToToken):
                split1, side = stage.tokenizer.split1, config.image_size
                sides = split1.side(side), LATER_SOFT_SPLIT.side(split1.side(side))
                stage.tokenizer.split2, stage.tokenizer.split3 = (_soft_split(side, device) for side in sides)

    def __call__(self, images: Tensor, tensors: Iterable[Tensor], is_joint: bool, is_training: bool) -> Tensor:
        """Logits (E, B, C) with these tensors, stage by stage in the order of `shapes`."""
        for (module, name), tensor in zip(self._places, tensors, strict=True):
            setattr(module, name, tensor)
        self.cascade.train(is_training)
        logits: Tensor = self.cascade(images, is_joint)
        return logits


class _BareStage(Stage):
    """A stage whose weights are left as they are: on torch 2.15's meta device, to draw none takes long."""

    def _init_weights(self) -> None:
        pass


class _BareCascade(Cascade):
    """A cascade of such stages."""

    def __init__(self, config: CascadeConfig) -> None:
        nn.Module.__init__(self)
        self.config, self.num_classes = config, config.num_classes
        self.stages = nn.ModuleList(_BareStage(config, index) for index in range(config.num_exits))


@lru_cache(maxsize=256)
def _grid_resize(source: int, target: int, num_prefix: int, device: torch.device) -> GridResize:
    with torch.inference_mode(False):  # what is kept must serve a later gradient
        return GridResize(source, target, num_prefix).to(device)


@lru_cache(maxsize=256)
def _soft_split(size: int, device: torch.device) -> SparseRows:
    with torch.inference_mode(False):
        return LATER_SOFT_SPLIT.gather(size).to(device)


def _place(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and the tensor's name in it."""
    parent, _, name = path.rpartition(".")
    return module.get_submodule(parent), name
