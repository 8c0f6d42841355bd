"""`dvt plan`: what it prints and what it refuses."""

import re
from pathlib import Path

import pytest

from dvt.cli.main import main

RECIPES = Path(__file__).resolve().parents[3] / "jobs" / "recipes"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def line(text: str, name: str) -> str:
    (found,) = re.findall(rf"^{re.escape(name)} {{2,}}(.*?) *$", text, re.MULTILINE)
    return str(found)


def test_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    # A hundred times the GPUs' speed and no launches: 10 images/s a node by its storage, 5 for each GPU.
    words = ["--launch-ms", "0", "--other-ms", "0", "--storage-gbit-s", "0.008", "--image-kb", "100", "--jitter", "0"]
    size = [
        "--nodes",
        "2",
        "--gpus",
        "2",
        "--price-per-gpu-hour",
        "2",
        "--train-images",
        "1024",
        "--upload-mb-s",
        "1e6",
    ]
    recipe = ["--data.calibration-images", "8", "--optimizer.epochs", "90", "--disk-mb-s", "1e6"]
    assert main(["plan", *words, *size, *recipe]) == 0
    text = capsys.readouterr().out
    assert "dvt_t2t_vit_14 on 2 x 2 h100" in text
    assert line(text, "images a step") == "256"  # 64 for each of four
    assert line(text, "limited by") == "images, of which half would save 50 % of the time"
    assert line(text, "images/s") == "20, 5 a GPU"
    assert line(text, "hours") == "1.4 for 100 epochs of 4 steps, 51.8 s each"  # 256 images of each GPU, and 2 measured
    assert line(text, "GPU hours") == "6"
    assert line(text, "cost") == "12"
    assert line(text, "memory a GPU") == "8.1 of 80 GB"
    assert line(text, "--image-kb") == "100"
    assert line(text, "--cores-per-gpu") == "4"
    # 32 GPUs take 2,048 images a step, which an epoch does not have.
    assert re.search(r"^ +32 +2,048 +- +- +- +- +- *$", text, re.MULTILINE)


def test_without_a_price_there_is_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "imagenet_t2t_vit_12.yaml")
    assert main(["plan", "--recipe", recipe, "--train.micro-batch-size", "8192"]) == 0
    text = capsys.readouterr().out
    assert line(text, "cost") == "add --price-per-gpu-hour"
    assert line(text, "memory a GPU").endswith(" of 80 GB: too little")


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        (
            ["--nodes", "0", "--gpus", "-1", "--gpu", "x", "--price-per-gpu-hour", "-2"],
            [
                "--nodes must be at least 1, got 0",
                "--gpus must be at least 1, got -1",
                "--gpu must be a kind of GPU, got 'x'; choose from a100, h100, h200, l40s",
                "--price-per-gpu-hour must be a number of at least 0, got -2",
            ],
        ),
        (["--utilisation", "2"], ["--utilisation must be greater than 0 and at most 1, got 2"]),
        (["--price-per-gpu-hour", "inf"], ["--price-per-gpu-hour must be a number of at least 0, got inf"]),
        (["--train.amp", "off"], ["train.amp must be auto in a plan, which knows rates of bfloat16 alone, got off"]),
        (["--train.micro-batch-size", "0"], ["train.micro_batch_size must be at least 1, got 0"]),
        (
            ["--recipe", str(RECIPES / "embedded.yaml")],
            [
                (
                    "--images-per-core-s must be given for data.source embedded, which was not measured: add the "
                    "images that a core prepares in a second"
                )
            ],
        ),
        (
            ["--nodes", "10000"],
            [
                (
                    "--nodes x --gpus must leave an image of the 1,271,167 for each of 80000 GPUs x 64, "
                    "got 10000 x 8; use fewer, or a smaller train.micro_batch_size"
                )
            ],
        ),
    ],
)
def test_what_is_refused(words: list[str], rules: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert capsys.readouterr().err == "".join(f"dvt: {rule}\n" for rule in rules)
