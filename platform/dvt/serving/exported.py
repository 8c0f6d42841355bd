"""Writes a cascade stage by stage for machines without this package: torch.export programs, ONNX, and a reader.

Each stage reads the images that no earlier exit was sure of, and what the stage before made of them: whoever runs the
stages leaves early by passing on fewer rows. `leave_early.py`, which goes along, does so in numpy and onnxruntime.

Shapes: B batch, c image channels, S image side, N rows before and M after a product, K entries a row at most.
"""

import copy
import importlib.util
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvt.config import CascadeConfig, ConfigError, Problem
from dvt.exits import ThresholdTable
from dvt.models import Cascade, StageOutput, macs_per_exit
from dvt.models.sparse_rows import SparseRows
from dvt.serving.model import OpenedModel

CASCADE = "cascade.json"
READER = "leave_early.py"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_FILE = 2**30  # bytes of weights in an ONNX file, which may hold 2 GiB; more go into a file beside it
_TOLERANCE = 1e-3  # by which logits may differ, of the largest one
_EXAMPLES = 2  # images that a stage is traced with; any other number can be given later


class ExportError(RuntimeError):
    """What was written does not do what the model does; the message is one sentence."""


@dataclass(frozen=True)
class ExportedStage:
    """A stage that was written."""

    onnx: str  # its files
    program: str
    inputs: tuple[str, ...]  # `images`, and what the stage before handed on; all have images along the first dimension
    outputs: tuple[str, ...]  # `logits`, and what the next stage reads
    macs: float  # what an image costs that leaves here
    largest_difference: float  # between logits of ONNX and of the cascade, on noise


def check_can_export() -> None:
    """Refuse to begin where a package is missing.

    Raises:
        ConfigError: If one is.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        rule = f"must find {', '.join(NEEDED)}, got no {', '.join(missing)}; pip install 'dvt-platform[export]'"
        raise ConfigError([Problem("dvt export", rule)])


@torch.no_grad()
def export_model(model: OpenedModel, folder: Path) -> tuple[ExportedStage, ...]:
    """Write `stage_K.pt2` and `stage_K.onnx` of each stage, `cascade.json` and the reader.

    Args:
        model: What to write.
        folder: Where to; an empty folder.

    Returns:
        The stages, first to last.

    Raises:
        ExportError: If ONNX gives other logits than the model.
    """
    config, macs = model.cascade.config, macs_per_exit(model.cascade.config)
    cascade = _with_gathered_rows(model.cascade)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_EXAMPLES, config.in_chans, config.image_size, config.image_size, generator=generator)
    given, stages = {"images": images}, []
    for index in range(config.num_exits):
        stage = _StageAlone(cascade, index).eval()
        examples = tuple(given[name] for name in stage.inputs)
        given |= dict(zip(stage.outputs, stage(*examples), strict=True))
        names = f"stage_{index + 1}.onnx", f"stage_{index + 1}.pt2"
        _write(stage, examples, folder / names[0], folder / names[1])
        difference = _difference(folder / names[0], dict(zip(stage.inputs, examples, strict=True)), given["logits"])
        stages.append(ExportedStage(*names, stage.inputs, stage.outputs, float(macs[index]), difference))
    text = json.dumps(_told(model, stages), indent=1)
    (folder / CASCADE).write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(READER), folder / READER)
    return tuple(stages)


class _StageAlone(nn.Module):
    """One stage with tensors in and out, as what is exported has no other types."""

    def __init__(self, cascade: Cascade, index: int) -> None:
        super().__init__()
        self.stage = cascade.stages[index]
        self.inputs = ("images", *(_handed_on(cascade.config, index - 1) if index else ()))
        is_last = index + 1 == cascade.config.num_exits
        self.outputs = ("logits", *(() if is_last else _handed_on(cascade.config, index)))
        self.reads_features = index > 0 and cascade.config.reuse(index).feature_depth > 0
        self.gives_features = not is_last and cascade.config.reuse(index + 1).feature_depth > 0

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        images, *handed_on = given
        upstream = None
        if handed_on:
            nothing = images.new_zeros(())
            features = handed_on.pop(0) if self.reads_features else nothing
            upstream = StageOutput(nothing, features, tuple(handed_on))  # nobody reads its logits
        output = self.stage(images, upstream)
        return (output.logits, *([output.features] if self.gives_features else []), *output.relations)


class _GatheredRows(nn.Module):
    """What `SparseRows` computes, of operations that every runtime has: ONNX writes `embedding_bag` as a slow loop."""

    columns: Tensor
    values: Tensor

    def __init__(self, sparse: SparseRows) -> None:
        super().__init__()
        entries = sparse.forth
        ends = torch.cat((entries.starts[1:], torch.tensor([len(entries.columns)])))
        counts = ends - entries.starts  # (M,)
        place = torch.arange(int(counts.max()))[:, None]  # (K, 1)
        is_there = place < counts  # (K, M)
        entry = (entries.starts + place).clamp(max=len(entries.columns) - 1)
        self.register_buffer("columns", torch.where(is_there, entries.columns[entry], 0))  # (K, M)
        self.register_buffer("values", torch.where(is_there, entries.values[entry], 0.0))  # (K, M)

    def forward(self, rows: Tensor) -> Tensor:
        """The product (..., M, W) of the matrix with `rows`, (..., N, W)."""
        total = rows.index_select(-2, self.columns[0]) * self.values[0][:, None]
        for place in range(1, len(self.columns)):
            total = total + rows.index_select(-2, self.columns[place]) * self.values[place][:, None]
        return total


def _with_gathered_rows(cascade: Cascade) -> Cascade:
    """A copy on the CPU that computes the same."""
    copied = copy.deepcopy(cascade).cpu().eval()
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SparseRows):
                setattr(parent, name, _GatheredRows(child))
    return copied


def _handed_on(config: CascadeConfig, index: int) -> tuple[str, ...]:
    """Names of what stage `index` hands on to the next."""
    reuse = config.reuse(index + 1)
    features = [f"features_{index + 1}"] if reuse.feature_depth else []
    return (*features, *(f"relations_{index + 1}_{block + 1}" for block in range(reuse.relation_upstream_depth)))


def _write(stage: _StageAlone, examples: tuple[Tensor, ...], onnx: Path, program: Path) -> None:
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in examples),)
    exported = torch.export.export(stage, examples, dynamic_shapes=shapes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # where in whose source it came from
    torch.export.save(exported, program)
    size = sum(tensor.numel() * tensor.element_size() for tensor in stage.state_dict().values())
    # onnxscript 0.7.2 takes the 1e-8 that T2T-ViT's attention adds to what it divides by for 0 and leaves it out;
    # whoever runs the file optimises it as it is loaded.
    names: dict[str, Any] = {"input_names": list(stage.inputs), "output_names": list(stage.outputs)}
    written = torch.onnx.export(exported, **names, optimize=False, verbose=False)
    assert written is not None
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # the same again
    written.save(onnx, external_data=size > _LARGEST_FILE)


def _difference(onnx: Path, given: dict[str, Tensor], logits: Tensor) -> float:
    """How far ONNX's logits are from the cascade's of the same; refuses what rounding does not explain."""
    from onnxruntime import InferenceSession  # comes with an extra of this package

    (told,) = InferenceSession(onnx).run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})
    difference, largest = float((torch.from_numpy(told) - logits).abs().max()), float(logits.abs().max())
    if not difference <= _TOLERANCE * largest:
        raise ExportError(
            f"{onnx.name} must give the logits of the model, got others by up to {difference:.2g} where the largest is "
            f"{largest:.2g}; export with the versions of torch, onnxscript and onnxruntime in constraints.txt"
        )
    return difference


def _told(model: OpenedModel, stages: list[ExportedStage]) -> dict[str, Any]:
    """What the reader needs to know besides the stages; thresholds have infinite numbers as texts."""
    macs = [stage.macs for stage in stages]
    table = ThresholdTable.of_single_exits(macs) if model.thresholds is None else model.thresholds
    images = asdict(model.preparation)
    return {
        "stages": [asdict(stage) for stage in stages],
        "thresholds": table.to_dict()["rows"],
        "confidence": {
            "measure": table.confidence.measure,
            "temperatures": list(table.confidence.temperatures or [1.0] * len(stages)),
        },
        "default_budget_macs": macs[-1] if model.default_budget_macs is None else model.default_budget_macs,
        "images": images | {"mode": "L" if images["in_chans"] == 1 else "RGB"},
        "class_names": list(model.class_names),
    }
