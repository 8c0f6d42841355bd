"""What `dvt export` writes gives what the model gives, where neither torch nor this package is to be had."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.exits import Confidence, ThresholdRow, ThresholdTable
from dvt.exits.confidence import MEASURES
from dvt.inference import Budget, EarlyExit, EarlyExitResult, thresholds_within
from dvt.inference.preparation import Preparation
from dvt.models import Cascade, macs_per_exit
from dvt.models.sparse_rows import SparseRows
from dvt.serving import leave_early
from dvt.serving.exported import ExportError, _difference, _GatheredRows, export_model
from dvt.serving.model import OpenedModel

# Reads the exported folder where only numpy, onnxruntime and Pillow can be imported, and notes what each stage ran on.
READER = """
import sys, json
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "dvt", "mlflow", "ray", "pandas"):
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)

sys.meta_path.insert(0, Blocker())
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
import leave_early, numpy

class Counted(leave_early.InferenceSession):
    def run(self, names, given):
        sizes.append(len(given["images"]))
        return super().run(names, given)

leave_early.InferenceSession = Counted
told = json.loads((folder / "cascade.json").read_text())
arrays = {}
for number, budget in enumerate(map(float, sys.argv[3:])):
    sizes = []
    logits, exits = leave_early.classify(folder, told, numpy.load(sys.argv[2]), budget)
    arrays |= {f"logits_{number}": logits, f"exits_{number}": exits, f"sizes_{number}": sizes}
numpy.savez(folder.parent / "told.npz", **arrays)
"""


@dataclass(frozen=True)
class Exported:
    model: OpenedModel
    folder: Path
    images: Tensor  # (40, c, S, S), normalised
    budgets: tuple[float, float]

    def expected(self, budget_macs: float) -> EarlyExitResult:
        table = self.model.thresholds
        assert table is not None
        thresholds = thresholds_within(Budget(budget_macs=budget_macs), table, macs_per_exit(self.model.cascade.config))
        return EarlyExit(self.model.cascade, thresholds, table.confidence)(self.images)


def make(
    family: str, confidence: Confidence, grids: tuple[int, ...]
) -> tuple[OpenedModel, Tensor, tuple[float, float]]:
    """A cascade with random weights, and thresholds between the confidences of its images."""
    in_chans = 3 if family == "vit" else 1
    config = CascadeConfig(
        family="vit" if family == "vit" else "t2t_vit",
        image_size=16,
        in_chans=in_chans,
        num_classes=5,
        embed_dim=16,
        depth=2,
        num_heads=2,
        mlp_ratio=2,
        stages=tuple(StageConfig(token_grid=grid) for grid in grids),
    )
    generator = torch.Generator().manual_seed(0)
    cascade = Cascade(config).eval()
    with torch.no_grad():
        for parameter in cascade.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        images = torch.randn(40, in_chans, 16, 16, generator=generator)
        logits = cascade(images)
    macs = macs_per_exit(config)
    rows = [ThresholdRow(macs[0], (-math.inf,) * len(grids))]
    for count, cost in ((20, 0.5 * (macs[0] + macs[1])), (8, 0.9 * macs[-1])):  # that many are sure at each exit
        sure = [confidence(logits[index], index).double().sort(descending=True).values for index in range(len(grids))]
        bounds = [float(each[count - 1 : count + 1].mean()) for each in sure[:-1]]
        rows.append(ThresholdRow(cost, (*bounds, -math.inf)))
    model = OpenedModel(
        cascade=cascade,
        thresholds=ThresholdTable(tuple(rows), confidence),
        default_budget_macs=rows[1].macs,
        class_names=("ant", "bee", "cat", "dog", "emu"),
        preparation=Preparation(
            in_chans=in_chans,
            image_size=16,
            mean=(0.5,) * in_chans,
            std=(0.25,) * in_chans,
            crop_pct=0.875,
            interpolation="bicubic",
        ),
        profiles=(),
    )
    return model, images, (rows[1].macs, float(macs[-1]))


@pytest.fixture(
    scope="module",
    params=[
        ("vit", Confidence("negative_entropy", (1.5, 0.5, 1.0)), (2, 3, 4)),
        ("t2t_vit", Confidence("margin"), (2, 4)),
    ],
    ids=["vit", "t2t_vit"],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model, images, budgets = make(*request.param)
    folder = tmp_path_factory.mktemp("exported") / "folder"
    folder.mkdir()
    stages = export_model(model, folder)
    assert [stage.macs for stage in stages] == list(macs_per_exit(model.cascade.config))
    assert max(stage.largest_difference for stage in stages) < 1e-4
    return Exported(model, folder, images, budgets)


def test_the_reader_leaves_where_the_model_does(exported: Exported, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", exported.images.numpy())
    command = [sys.executable, "-I", "-c", READER, str(exported.folder), str(tmp_path / "images.npy")]
    subprocess.run([*command, *map(repr, exported.budgets)], check=True)
    told: dict[str, NDArray[np.float32]] = dict(np.load(exported.folder.parent / "told.npz"))
    taken, all_exits = set(), range(1, exported.model.cascade.config.num_exits + 1)
    for number, budget in enumerate(exported.budgets):
        wanted = exported.expected(budget)
        exits = wanted.exit_index.numpy() + 1
        np.testing.assert_array_equal(told[f"exits_{number}"], exits)
        np.testing.assert_array_equal(told[f"logits_{number}"].argmax(1), wanted.label.numpy())
        probs = torch.from_numpy(told[f"logits_{number}"]).softmax(-1)
        torch.testing.assert_close(probs, wanted.probs, rtol=1e-3, atol=1e-5)
        # A stage runs on those alone that no earlier one was sure of.
        assert list(told[f"sizes_{number}"]) == [int((exits >= index).sum()) for index in all_exits]
        taken.add(tuple(exits))
    assert len(taken) == 2  # the budgets differ, and each sends images to every exit, else this shows little
    assert all(set(exits) == set(all_exits) for exits in taken)


@pytest.mark.parametrize("count", [1, 7])
def test_the_programs_load_again_and_agree(exported: Exported, count: int) -> None:
    told = json.loads((exported.folder / "cascade.json").read_text())
    given = {"images": exported.images[:count]}
    with torch.no_grad():
        wanted = exported.model.cascade(given["images"])
        for index, stage in enumerate(told["stages"]):
            program = torch.export.load(exported.folder / stage["program"]).module()
            given |= dict(zip(stage["outputs"], program(*(given[name] for name in stage["inputs"])), strict=True))
            torch.testing.assert_close(given["logits"], wanted[index], rtol=1e-4, atol=1e-4)


def test_the_script_classifies_files(exported: Exported, tmp_path: Path) -> None:
    preparation, paths = exported.model.preparation, []
    for row, size in enumerate([(20, 31), (40, 17), (16, 16)]):
        pixels = (exported.images[row].permute(1, 2, 0).sigmoid() * 255).to(torch.uint8).numpy().squeeze()
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(pixels).resize(size).save(paths[-1])
    told = json.loads((exported.folder / "cascade.json").read_text())
    images = np.stack([leave_early.read(told["images"], path) for path in paths])
    wanted = preparation([path.read_bytes() for path in paths])
    np.testing.assert_allclose(images, wanted.numpy(), atol=1e-6)

    command = [sys.executable, str(exported.folder / "leave_early.py"), *map(str, paths)]
    done = subprocess.run([*command, "--budget-macs", repr(exported.budgets[1])], capture_output=True, text=True)
    thresholds = exported.model.thresholds.rows[-1].thresholds  # type: ignore[union-attr]
    result = EarlyExit(exported.model.cascade, thresholds, exported.model.thresholds.confidence)(wanted)  # type: ignore[union-attr]
    assert done.stdout.splitlines() == [
        f"{path}\t{exported.model.class_names[label]}\texit {index + 1}"
        for path, label, index in zip(paths, result.label.tolist(), result.exit_index.tolist(), strict=True)
    ]


def test_a_budget_that_cannot_be_kept_is_told_by_the_reader(exported: Exported) -> None:
    told = json.loads((exported.folder / "cascade.json").read_text())
    first, *_, last = macs_per_exit(exported.model.cascade.config)
    for budget in (first - 1, last + 1):
        with pytest.raises(SystemExit) as caught:
            leave_early.classify(exported.folder, told, exported.images.numpy(), budget)
        assert str(caught.value) == f"--budget-macs must be from {first} to {last}, got {budget}"


@pytest.mark.parametrize("temperatures", [(), (0.5, 3.0)])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_the_reader_knows_every_confidence(measure: str, temperatures: tuple[float, ...], num_classes: int) -> None:
    by = Confidence(measure, temperatures)  # type: ignore[arg-type]
    logits = torch.randn(50, num_classes, generator=torch.Generator().manual_seed(1)) * 20
    told = leave_early.confidence({"measure": measure, "temperatures": temperatures or (1.0, 1.0)}, logits.numpy(), 1)
    np.testing.assert_allclose(told, by(logits, 1).numpy(), rtol=1e-4, atol=1e-6)


def test_the_reader_has_60_lines_at_most() -> None:
    assert len(Path(leave_early.__file__).read_text(encoding="utf-8").splitlines()) <= 60


def test_what_gives_other_logits_is_told(exported: Exported) -> None:
    images = exported.images[:2]
    with torch.no_grad():
        logits = exported.model.cascade(images)[0]
    onnx = exported.folder / "stage_1.onnx"
    message = r"^stage_1\.onnx must give the logits of the model, got others by up to "
    assert _difference(onnx, {"images": images}, logits) < 1e-4
    for others in (1.5 * logits, logits * math.nan):
        with pytest.raises(ExportError, match=message):
            _difference(onnx, {"images": images}, others)


def test_gathered_rows_by_hand() -> None:
    sparse = SparseRows([(0, 1, 2.0), (0, 2, 3.0), (2, 0, 1.0)], num_rows=3, num_columns=3)
    rows = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    assert _GatheredRows(sparse)(rows).tolist() == [[13.0, 130.0], [0.0, 0.0], [1.0, 10.0]]
    assert sparse(rows).tolist() == [[13.0, 130.0], [0.0, 0.0], [1.0, 10.0]]
