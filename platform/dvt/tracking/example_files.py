"""`examples.json`: the example images of a front in one small file, for the page of `dvt ui`.

Each image is small, as PNG or, where that is smaller, JPEG, and comes with what it shows, what each exit sees and how
sure each exit is. So a reader decides where it leaves, by thresholds that nobody had in mind when the file was made.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dvt.tracking.contact_sheet import as_pixels
from dvt.train.examples import Examples

EXAMPLES_FILE = "examples.json"
MOST_BYTES = 300_000  # of the file; images that do not fit in are left out, the last of each class first
SIDE = 96  # pixels; larger images are made smaller
_QUALITY = 80  # of JPEG


def write_examples(folder: Path, examples: Examples) -> Path:
    """Write the file into a folder; its path.

    Args:
        folder: Of the front; made if it is not there.
        examples: As many of them are kept as fit into `MOST_BYTES`.

    Raises:
        OSError: If the file cannot be written.
    """
    pixels = as_pixels(examples.images, examples.mean, examples.std)  # (n, S, S, c)
    kept: list[str] = []
    size = 0
    for index, image in enumerate(pixels):
        told = json.dumps(_row(examples, index, image))
        size += len(told) + 2  # a comma and a line break; the text is ASCII
        if size > MOST_BYTES - 100:
            break
        kept.append(told)
    path = folder / EXAMPLES_FILE
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text('{"images": [\n' + ",\n".join(kept) + "\n]}\n", encoding="ascii")
    return path


def _row(examples: Examples, index: int, image: NDArray[np.uint8]) -> dict[str, Any]:
    return {
        "image": _data_url(image),
        "label": examples.labels[index],
        "predicted": list(examples.predicted[index]),
        "confidence": examples.confidence[:, index].tolist(),
    }


def _data_url(pixels: NDArray[np.uint8]) -> str:
    """An image (S, S, c) as an address that holds the image itself."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((SIDE, SIDE))
    made = []
    for form, options in (("png", {"optimize": True}), ("jpeg", {"quality": _QUALITY})):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        made.append((len(buffer.getvalue()), form, buffer.getvalue()))
    _, form, content = min(made)
    return f"data:image/{form};base64,{base64.b64encode(content).decode('ascii')}"
