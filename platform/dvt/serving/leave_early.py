"""Classify image files with an exported cascade, leaving early: numpy, onnxruntime and Pillow, nothing else."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image


def read(told: dict[str, Any], path: Path) -> np.ndarray:
    """An image file as stages want it, (c, side, side): shorter side resized, centre cropped, normalised."""
    image = Image.open(path, formats=("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")).convert(told["mode"])
    side, short = told["image_size"], int(told["image_size"] / told["crop_pct"])
    width, height = (int(short * pixels / min(image.size)) for pixels in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    image = image.resize((width, height), Image.Resampling[told["interpolation"].upper()])
    values = np.asarray(image.crop((left, top, left + side, top + side)), np.float32).reshape(side, side, -1) / 255
    return ((values - np.float32(told["mean"])) / np.float32(told["std"])).transpose(2, 0, 1)


def confidence(told: dict[str, Any], logits: np.ndarray, index: int) -> np.ndarray:
    """How sure exit `index` is, (n,), of logits (n, classes), by the measure that thresholds are of."""
    logits = (logits - logits.max(1, keepdims=True)) / np.float32(told["temperatures"][index])
    logs = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    best = np.sort(np.exp(logs), axis=1)[:, ::-1]
    sure = best[:, 0] - (best[:, 1:2].sum(1) if told["measure"] == "margin" else 0)
    return np.asarray((np.exp(logs) * logs).sum(1) if told["measure"] == "negative_entropy" else sure, np.float64)


def classify(folder: Path, told: dict[str, Any], images: np.ndarray, budget: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, classes) and exits, from 1, (n,), of images (n, c, side, side), within mean multiply-adds an image."""
    least, most = told["thresholds"][0]["macs"], told["stages"][-1]["macs"]
    if not least <= budget <= most:
        raise SystemExit(f"--budget-macs must be from {least:.12g} to {most:.12g}, got {budget:.12g}")
    thresholds = [row["thresholds"] for row in told["thresholds"] if row["macs"] <= budget][-1]
    logits, exits = np.zeros((len(images), len(told["class_names"])), np.float32), np.zeros(len(images), int)
    rows, given = np.arange(len(images)), {"images": images}
    for index, stage in enumerate(told["stages"]):
        run = InferenceSession(folder / Path(stage["onnx"]).name).run  # no name leads out of the folder
        given |= dict(zip(stage["outputs"], run(None, {name: given[name] for name in stage["inputs"]}), strict=True))
        logits[rows], exits[rows] = given["logits"], index + 1  # of those that stay, a later exit writes again
        stays = ~(confidence(told["confidence"], given["logits"], index) >= float(thresholds[index]))
        rows, given = rows[stays], {name: each[stays] for name, each in given.items()}
        if not len(rows):
            break
    return logits, exits


if __name__ == "__main__":
    here, parser = Path(__file__).parent, argparse.ArgumentParser(description=__doc__)
    told = json.loads((here / "cascade.json").read_text())
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--budget-macs", type=float, default=told["default_budget_macs"])
    asked = parser.parse_args()
    images = np.stack([read(told["images"], path) for path in asked.images])
    for path, row, exit_index in zip(asked.images, *classify(here, told, images, asked.budget_macs), strict=True):
        print(path, told["class_names"][row.argmax()], f"exit {exit_index}", sep="\t")
