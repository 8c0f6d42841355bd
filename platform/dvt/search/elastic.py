"""`ElasticCascade`: one set of weights from which every cascade of a space takes its own, by cutting and resizing.

A cascade is run as the plain `Cascade` that it is, on tensors derived from the shared ones, so it computes with
inherited weights exactly what it would compute alone. What is cut: a stage of fewer blocks, contexts or maps takes the
first ones; of the maps that a stage before hands on, the last, since those are its last blocks'. What is resized:
patch embedding and position embedding, as in Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from dvt.config import CascadeConfig, StageConfig
from dvt.models import Cascade
from dvt.search.cascades import CascadeSet
from dvt.search.choices import BACKBONE_FIELDS
from dvt.search.settings import Sharing
from dvt.search.shared_stage import SharedStage
from dvt.search.skeleton import Skeleton

MOST_SKELETONS = 64  # kept; of those that are sampled, few come twice


class ElasticCascade(nn.Module):
    """All cascades of a space with shared weights.

    Args:
        cascades: The cascades; caps aside.
        sharing: Which stages share their weights: those of one token `grid`, wherever they stand in a cascade, or
            those at one `position` in their cascades, whatever their grid.

    Raises:
        ConfigError: If cascades differ in the width of tokens or in heads.
    """

    def __init__(self, cascades: CascadeSet, sharing: Sharing = "grid") -> None:
        super().__init__()
        cascades.require_one_width()
        self.cascades, self.sharing = cascades, sharing
        grids: dict[str, set[int]] = {}
        later: set[str] = set()  # those that may have a stage before them
        for sequence in cascades.grids():
            for index, grid in enumerate(sequence):
                name = self._name(index, grid)
                grids.setdefault(name, set()).add(grid)
                if index > 0:
                    later.add(name)
        config, most = self._largest()
        self.shared = nn.ModuleDict(
            {
                name: SharedStage(config, tuple(sorted(held)), most if name in later else None)
                for name, held in sorted(grids.items())
            }
        )
        self._skeletons: dict[tuple[CascadeConfig, torch.device], Skeleton] = {}

    def forward(self, images: Tensor, config: CascadeConfig, is_joint: bool = True) -> Tensor:
        """Run one of the cascades.

        Args:
            images: Normalised images, (B, c, S, S).
            config: Which cascade.
            is_joint: Whether stages see what the one before computed, as for `Cascade`.

        Returns:
            Logits of every exit, (E, B, C); gradients reach the shared weights.

        Raises:
            ValueError: If `config` is not one of the cascades.
        """
        skeleton = self._skeleton(config)
        return skeleton(images, self._derived(config, skeleton).values(), is_joint, self.training)

    def inherit(self, config: CascadeConfig) -> dict[str, Tensor]:
        """The state dict of one of the cascades, a copy: `Cascade(config)` loads it and computes the same.

        Raises:
            ValueError: If `config` is not one of the cascades.
        """
        with torch.no_grad():
            derived = self._derived(config, self._skeleton(config))
            return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in derived.items()}

    def extract(self, config: CascadeConfig) -> Cascade:
        """One of the cascades as a model of its own, with inherited weights, on the device of the shared ones.

        Raises:
            ValueError: If `config` is not one of the cascades.
        """
        with torch.random.fork_rng(devices=[]):  # its own first weights, which are not kept, are drawn globally
            model = Cascade(config)
        model.load_state_dict(self.inherit(config))
        return model.to(self._device).train(self.training)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimizer factory must not decay, besides norms and biases."""
        endings = ("cls_token", "reg_token", "pos_embed")
        return {name for name, _ in self.named_parameters() if name.endswith(endings)}

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _name(self, index: int, grid: int) -> str:
        return f"grid_{grid}" if self.sharing == "grid" else f"stage_{index}"

    def _largest(self) -> tuple[CascadeConfig, StageConfig]:
        """The base with the most blocks and widest context, and the largest reuse depths of a later stage."""
        values = self.cascades.values
        depth = max(values("depth"))
        received = [
            (features, *relations)
            for blocks in values("depth")
            for features in self.cascades.reuse_depths("feature_reuse_depth", blocks)
            for relations in self.cascades.relation_depths(blocks)
        ]
        features, relations, upstream = map(max, zip(*received, strict=True))
        config = replace(
            self.cascades.base,
            depth=depth,
            embed_dim=values("embed_dim")[0],
            num_heads=self.cascades.heads(values("embed_dim")[0])[0],
            feature_reuse_dim=max(values("feature_reuse_dim")),
            stages=(StageConfig(token_grid=1),),
        )
        most = StageConfig(
            token_grid=1,
            feature_reuse_depth=features,
            relation_reuse_depth=relations,
            relation_upstream_depth=upstream,
        )
        return config, most

    def __getstate__(self) -> dict[str, Any]:
        """Copied without skeletons: they hold tensors of the last gradient, which are not to be copied."""
        return self.__dict__ | {"_skeletons": {}}

    def _derived(self, config: CascadeConfig, skeleton: Skeleton) -> dict[str, Tensor]:
        derived: dict[str, Tensor] = {}
        for index, (grid, shapes) in enumerate(zip(config.token_grids, skeleton.shapes, strict=True)):
            shared = self.shared[self._name(index, grid)]
            assert isinstance(shared, SharedStage)
            derived |= {f"stages.{index}.{name}": tensor for name, tensor in shared.derive(shapes, grid)}
        return derived

    def _skeleton(self, config: CascadeConfig) -> Skeleton:
        """The cascade without weights, with its fixed matrices on the device of the shared weights."""
        key = config, self._device
        skeleton = self._skeletons.pop(key, None)
        if skeleton is None:
            if not self._holds(config):
                raise ValueError(f"config must be one of the cascades with shared weights, got {config}")
            if len(self._skeletons) == MOST_SKELETONS:
                self._skeletons.pop(next(iter(self._skeletons)))
            skeleton = Skeleton(config, self._device)
        self._skeletons[key] = skeleton  # the last that goes
        return skeleton

    def _holds(self, config: CascadeConfig) -> bool:
        """Whether every stage finds its weights."""
        cascades, shape = self.cascades, self.cascades.shape(config)
        chosen = ("stages", "feature_reuse_dim", *BACKBONE_FIELDS)
        kept = (field.name for field in fields(config) if field.name not in chosen)
        reads = any(reuse.feature_depth for reuse in shape.reuses)
        return (
            all(getattr(config, name) == getattr(cascades.base, name) for name in kept)
            and shape.backbone in cascades.backbones()
            and shape.grids in cascades.grids()
            and (not reads or shape.context_dim in cascades.values("feature_reuse_dim"))
            and all(
                reuse.feature_depth in cascades.reuse_depths("feature_reuse_depth", config.depth)
                and (reuse.relation_depth, reuse.relation_upstream_depth) in cascades.relation_depths(config.depth)
                for reuse in shape.reuses
            )
        )
