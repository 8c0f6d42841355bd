"""`dvt describe`: what it tells of variants, recipes and checkpoints, and what it says to something else."""

from pathlib import Path

import pytest
import torch

from dvt.cli.main import main
from dvt.models import VARIANTS, relation_numbers
from dvt.train.checkpoint import save_checkpoint
from dvt.train.state import TrainingState
from tests.unit.models.tiny import stages, tiny
from tests.unit.train.tiny import RECIPE

RECIPES = Path(__file__).resolve().parents[3] / "jobs" / "recipes"


def rows(text: str) -> dict[str, list[str]]:
    """The table's cells by the name in front."""
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {name: values for name, *values in cells}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_a_published_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "dvt_t2t_vit_12"]) == 0
    told = rows(capsys.readouterr().out)
    assert told["tokens"] == ["7x7", "10x10", "14x14"]
    assert told["parameters, 22,461,516 in all"] == ["6,989,824", "7,744,510", "7,727,182"]
    assert told["blocks that read features"] == ["-", "12", "12"]
    assert told["cumulative MACs"] == ["467.7 M", "1.446 G", "3.455 G"]
    # 101 x 101 pairs of tokens: 48 maps with 144 between them; 197 x 197 for the 4 heads of a block.
    assert told["maps: of the stage before"] == ["-", "469 KiB", "1.87 MiB"]
    assert told["maps: hidden"] == ["-", "1.37 MiB", "5.6 MiB"]
    assert told["maps: resized, a block at a time"] == ["-", "159 KiB", "606 KiB"]


def test_parts_add_up_to_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(RECIPES / "embedded.yaml")]) == 0
    told = rows(capsys.readouterr().out)
    parts = ("tokenizer", "blocks", "feature reuse", "relationship reuse", "head")
    units = {"M": 1e6, "k": 1e3}

    def number(cell: str) -> float:
        digits, _, unit = cell.partition(" ")
        return 0.0 if cell == "-" else float(digits) * units.get(unit, 1.0)

    for exit_index, stage in enumerate(told["MACs: stage"]):
        spent = sum(number(told[f"MACs: {part}"][exit_index]) for part in parts)
        assert spent == pytest.approx(number(stage), rel=0.002)


def test_overrides_change_what_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    stage_list = "[{token_grid: 4}]"
    assert main(["describe", "dvt_t2t_vit_12", "--cascade.stages", stage_list, "--cascade.num-classes", "10"]) == 0
    text = capsys.readouterr().out
    assert "224x224 pixels of 3, 10 classes" in text
    assert rows(text)["tokens"] == ["4x4"]


def test_a_checkpoint_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "checkpoint", TrainingState.create(RECIPE, 1, torch.device("cpu")), RECIPE)
    assert main(["describe", str(tmp_path / "checkpoint")]) == 0
    assert rows(capsys.readouterr().out)["tokens"] == ["2x2", "4x4"]


@pytest.mark.parametrize(
    ("what", "advice"),
    [("dvt_t2t_12", "did you mean dvt_t2t_vit_12?"), ("x", f"choose from {', '.join(VARIANTS)}")],
)
def test_anything_else_is_refused(what: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", what]) == 2
    rule = f"dvt: WHAT must be a variant, a recipe or a checkpoint folder, got '{what}'; {advice}\n"
    assert capsys.readouterr().err == rule


def test_a_wrong_override_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "dvt_deit_small", "--cascade.stages.1.relation-reuse-depth", "40"]) == 2
    rule = "dvt: cascade.stages.1.relation_reuse_depth must be at most 12 for depth 12, got 40\n"
    assert capsys.readouterr().err == rule


def test_relationship_maps_worked_by_hand() -> None:
    depths = {"relation_reuse_depth": 2, "relation_upstream_depth": 1}
    config = tiny(num_registers=1, relation_reuse_ratio=1.5, stages=stages(2, 3, **depths))  # 2 heads
    maps = relation_numbers(config, 1)
    assert maps.handed_on == 1 * 2 * 6 * 6  # 4 patches, a class token and a register
    assert maps.hidden == 6 * 6 * 6  # 1.5 times the 2 x 2 maps
    assert maps.mixed == 2 * 2 * 6 * 6
    assert maps.resized == 2 * 11 * 11
    assert relation_numbers(config, 0).handed_on == 0
