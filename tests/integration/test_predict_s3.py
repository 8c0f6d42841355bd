"""`dvt predict` on images in a bucket of a real S3 server, in a process of its own as a person starts it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from dvt.train.checkpoint import save_checkpoint
from dvt.train.state import TrainingState
from tests.integration.s3_server import S3Server
from tests.unit.data.images import write_image
from tests.unit.tracking.tiny import tiny_recipe

pytestmark = pytest.mark.slow

BUCKET = "dvt-images"
SOURCE_ROOT = Path(__file__).resolve().parents[2] / "platform"


def upload(server: S3Server, files: dict[str, bytes]) -> None:
    client: Any = server.client()
    client.create_bucket(Bucket=BUCKET)
    for key, content in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
    client.close()


def test_images_of_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    images = {name: write_image(tmp_path / name, seed).read_bytes() for seed, name in enumerate(("a.png", "b/c.jpg"))}
    upload(
        s3,
        {**{f"some/{name}": image for name, image in images.items()}, "some/broken.png": b"x", "some/notes.txt": b"x"},
    )
    recipe = tiny_recipe(root="/no/images")
    state = TrainingState.create(recipe, steps_per_epoch=1, device=torch.device("cpu"))
    save_checkpoint(tmp_path / "checkpoint", state, recipe)
    names = [f"s3://{BUCKET}/some", f"s3://{BUCKET}/some/none.png", "a.png", "b/c.jpg", "s3://dvt-no-bucket/x"]
    words = ["predict", "--model", "checkpoint", "--output", "rows.parquet", *names]
    done = subprocess.run(
        [sys.executable, "-m", "dvt.cli.main", *words],
        cwd=tmp_path,
        env=os.environ | s3.env | {"PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    failed = [f"s3://{BUCKET}/some/broken.png", f"s3://{BUCKET}/some/none.png", "s3://dvt-no-bucket/x"]
    reasons = ["it is not an image", "there is no such file", "there is no such file"]
    told = [f"dvt: {name} cannot be read: {reason}" for name, reason in zip(failed, reasons, strict=True)]
    assert (done.returncode, done.stderr.splitlines()) == (1, told), done.stdout
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    inside = [f"s3://{BUCKET}/some/{name}" for name in ("a.png", "b/c.jpg", "broken.png", "none.png")]
    assert list(rows.image) == [*inside, *names[2:]]
    by_name = rows.set_index("image")[["label", "confidence", "exit_index"]]
    for name in images:  # the same bytes are the same image, wherever they lie
        assert by_name.loc[f"s3://{BUCKET}/some/{name}"].to_list() == pytest.approx(by_name.loc[name].to_list())
