"""`dvt search describe`: what it tells of a space, and what it says to something else."""

from pathlib import Path

import pytest

from dvt.cli.main import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")


def test_a_space_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "describe", "reuse_ablation"]) == 0
    told = capsys.readouterr().out
    assert "25 cascades, 25 of them within the caps" in told
    assert max(map(len, told.splitlines())) <= 100
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in told.splitlines() if "│" in line]
    assert lines[0] == ["cheapest", "7x7", "-", "-", "-", "467.7 M", "20,890,956", "-"]
    assert lines[2] == ["", "14x14", "-", "-", "", "3.121 G", "", ""]
    # The paper's cascade, as published.
    assert lines[3] == ["dearest", "7x7", "-", "-", "48", "467.7 M", "22,461,516", "9.93 MiB"]
    assert lines[5] == ["", "14x14", "12", "12 < 12", "", "3.455 G", "", ""]
    assert [line[0] for line in lines[6::3]] == [f"sample {number}" for number in range(1, 6)]


def test_samples_with_backbones_and_training(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", "describe", "search_spaces/imagenet_deit_small.yaml", "--cascade.num-classes", "10"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "224x224 pixels of 3, 10 classes" in told
    assert max(map(len, told.splitlines())) <= 100
    assert "…" not in told  # nothing is cut off
    assert "backbone" in told
    assert "x384, " in told
    assert "loss.distill_weight" in told
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("reuse_ablations", "did you mean reuse_ablation?"),
        ("x", "choose from embedded, imagenet_deit_small, imagenet_t2t_vit_12, reuse_ablation"),
    ],
)
def test_anything_else_is_refused(given: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "describe", given]) == 2
    assert capsys.readouterr().err == f"dvt: SPACE must be a search space, got '{given}'; {advice}\n"


def test_a_bad_space_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "bad.yaml"
    text = (ROOT / "search_spaces" / "embedded.yaml").read_text(encoding="utf-8")
    place.write_text(
        text.replace("[2, 3, 4, 5, 7]", "[7, 5, 4, 3, 2]").replace("jobs/", f"{ROOT}/jobs/"), encoding="utf-8"
    )
    assert main(["search", "describe", str(place)]) == 2
    rule = "dvt: cascade.token_grids must be strictly increasing, got 7, 5, 4, 3, 2\n"
    assert capsys.readouterr().err == rule
