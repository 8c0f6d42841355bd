"""A cascade of 2 stages and 5 classes with random weights, and everything that a run of it is logged with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dvt.config import CascadeConfig, DataConfig, Recipe, RunConfig, StageConfig
from dvt.exits import ThresholdTable, default_budgets, make_report, score_exits
from dvt.models import Cascade, macs_per_exit
from dvt.tracking import ModelContent

CASCADE = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=5,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=4)),
)
CLASS_NAMES = ("ant", "bee", "cat", "dog", "emu")
MEAN, STD = 0.4, 0.2


def tiny_recipe(experiment: str = "dvt", root: str = "/images") -> Recipe:
    return Recipe(
        name="tiny", cascade=CASCADE, data=DataConfig(source="folder", root=root), run=RunConfig(experiment=experiment)
    )


@dataclass(frozen=True)
class Tiny:
    """A model, images in [0, 1] and what it says about them."""

    cascade: Cascade
    images: Tensor  # (40, 1, 16, 16)
    logits: Tensor  # (2, 40, 5)
    content: ModelContent


def make_tiny(folder: Path, seed: int = 0, experiment: str = "dvt") -> Tiny:
    generator = torch.Generator().manual_seed(seed)
    cascade = Cascade(CASCADE).eval()
    with torch.no_grad():
        for parameter in cascade.parameters():  # far from uniform predictions, so that confidences differ
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        images = torch.rand(40, 1, 16, 16, generator=generator)
        logits = cascade((images - MEAN) / STD)
    labels = torch.where(torch.rand(40, generator=generator) < 0.7, logits[1].argmax(-1), 0)
    weights = folder / f"weights_{seed}.safetensors"
    save_file(cascade.state_dict(), weights)
    macs = macs_per_exit(CASCADE)
    report = make_report(
        "tiny",
        CASCADE.token_grids,
        macs,
        calibration=score_exits(logits[:, :20], labels[:20]),
        test=score_exits(logits[:, 20:], labels[20:]),
        budgets=default_budgets(macs),
    )
    content = ModelContent(
        recipe=tiny_recipe(experiment),
        weights=weights,
        step=7,
        thresholds=ThresholdTable.of_front(report.calibration_front),
        report=report,
        class_names=CLASS_NAMES,
        mean=(MEAN,),
        std=(STD,),
    )
    return Tiny(cascade, images, logits, content)
