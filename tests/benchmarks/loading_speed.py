"""How many training images a core loads, ours against timm's loader and against bare decoding, alternating in one run.

By hand: PYTHONPATH=platform python -m tests.benchmarks.loading_speed [--images 6144] [--rounds 5] [--stages].

The JPEGs are made here: 500 x 375, quality 90, about 90 kB, random fields whose spectrum falls as that of photographs.
This process and its one reading process share one core. A rate is images in a second of processor time, of both
processes, so that what else runs on the machine weighs little; a wall clock agrees where the machine is idle. From
files to batches of 128 ready for the device: ours are bytes, which the device normalises; timm's are float32, or bytes
with its prefetcher, which normalises in the training process. An epoch's begin, which forks a process, is in it: of far
fewer images it would be a part that no real epoch has.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageDataset, create_loader
from torchvision.transforms import InterpolationMode, v2

from dvt.config import AugmentConfig, CascadeConfig, DataConfig
from dvt.data import DataSets, train_batches
from dvt.data.augmenting import Augmenter, resize
from dvt.data.batch_memory import empty_batch
from dvt.data.decoding import decode
from dvt.data.encoded import EncodedImages
from dvt.data.folder import FolderFiles
from dvt.data.image_set import FileImages
from dvt.data.order import choose_order
from tests.benchmarks import shard_sides

HEIGHT, WIDTH, QUALITY = 375, 500, 90
SIZE, BATCH = 224, 128
WINDOW = 1024  # images that are mixed at a time, of shards in a bucket
POLICY = "rand-m9-mstd0.5-inc1"
NUM_FIELDS = 24  # random fields that images are put together from
BARS = {("ours", "timm"): 2.1, ("ours", "bare decoding"): 0.75, ("ours, RandAugment", "timm, RandAugment"): 1.7}


def make_images(folder: Path, count: int) -> FolderFiles:
    """Write JPEGs into two class folders."""
    generator = np.random.default_rng(0)
    fields = [_field(generator) for _ in range(NUM_FIELDS)]
    files, sizes = [], []
    for index in range(count):
        path = folder / f"class_{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        first, second, third = (_moved(fields[place], generator) for place in generator.choice(NUM_FIELDS, 3))
        grey = (first + second) / np.sqrt(2)
        colour = np.stack([grey + 0.25 * third, grey, grey - 0.25 * _moved(third, generator)], axis=-1)
        pixels = np.clip(colour * generator.uniform(22, 42) + generator.uniform(90, 150), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=QUALITY)
        files.append(str(path))
        sizes.append(path.stat().st_size)
    print(
        f"{count} JPEGs of {np.mean(sizes) / 1000:.0f} kB on average, {np.min(sizes) // 1000}-{np.max(sizes) // 1000}"
    )
    return FolderFiles(tuple(files), np.arange(count) % 2, ("class_0", "class_1"))


def _field(generator: np.random.Generator) -> NDArray[np.float64]:
    """A random field whose amplitude falls with the spatial frequency, of mean 0 and deviation 1; it is periodic."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = np.inf
    noise = generator.normal(size=frequency.shape) + 1j * generator.normal(size=frequency.shape)
    field = np.fft.irfft2(noise / frequency, (HEIGHT, WIDTH))
    return field / field.std()


def _moved(field: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    return np.roll(field, (generator.integers(HEIGHT), generator.integers(WIDTH)), (0, 1))


def ours(images: EncodedImages, policy: str | None, run: int = 1) -> Iterator[object]:
    """Our batches, of any encoded images; in window order, by runs, where these lie in blocks."""
    augment = AugmentConfig(rand_augment=policy)
    config = DataConfig(root="unused", augment=augment, shuffle_window=WINDOW, shuffle_run=run)
    cascade = CascadeConfig(image_size=SIZE)
    train = FileImages(images, np.arange(len(images)), config, cascade, is_training=True)
    order = choose_order(config, images.blocks)
    data = DataSets(train, train, train, images.class_names, (0.0,), (1.0,), train_order=order)
    return train_batches(data, epoch=0, seen_images=0, rank=0, world_size=1, batch_size=BATCH, seed=0, num_workers=1)


def timms(folder: Path, policy: str | None, is_float: bool) -> Iterator[object]:
    """timm's batches of the same files."""
    loader = create_loader(
        ImageDataset(str(folder)),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        color_jitter=0.0,
        auto_augment=policy,
        interpolation="random",
        num_workers=1,
        device=torch.device("cpu"),
        use_prefetcher=not is_float,
        persistent_workers=False,
    )
    return iter(loader)


def bare(images: FolderFiles) -> Iterator[object]:
    """Decoding alone, with the reading of the files."""
    for file in images.files:
        yield simplejpeg.decode_jpeg(Path(file).read_bytes())


def measure(
    sides: dict[str, Callable[[], Iterator[object]]], count: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Images in a second of processor time and of the wall clock, a side and round; the sides take turns."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            used, start = _processor_s(), time.perf_counter()
            batches = side()
            for _batch in batches:
                pass
            del batches  # its process ends, and is accounted for
            rates[name].append((count / (_processor_s() - used), count / (time.perf_counter() - start)))
    return rates


def _processor_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def stages(images: FolderFiles, rounds: int) -> None:
    """What installs here, a stage at a time: microseconds of processor time an image."""
    files = [Path(file).read_bytes() for file in images.files[:200]]
    pixels = [simplejpeg.decode_jpeg(file) for file in files]
    part = (slice(40, 320), slice(60, 440))  # of a size that random parts have on average
    box = (60, 40, 440, 320)
    pictures = [Image.fromarray(each) for each in pixels]
    tensors = [torch.from_numpy(each).permute(2, 0, 1) for each in pixels]
    small = [Image.fromarray(each[part]).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in pixels]
    out = empty_batch(1, 3, SIZE)[0]
    config, cascade = DataConfig(root="unused"), CascadeConfig(image_size=SIZE)
    augmenter = Augmenter(config, cascade)
    assert augmenter.policy is not None
    bicubic = InterpolationMode.BICUBIC

    def drafted(file: bytes) -> object:
        image = Image.open(BytesIO(file))
        image.draft("RGB", (SIZE, SIZE))  # at half its side or less where that suffices: other pixels
        return image.convert("RGB")

    steps: dict[str, tuple[Callable[[object], object], list[object]]] = {
        "decode: simplejpeg": (simplejpeg.decode_jpeg, files),
        "decode: simplejpeg, fast transform and upsampling": (
            lambda file: simplejpeg.decode_jpeg(file, fastdct=True, fastupsample=True),
            files,
        ),
        "decode: ours, with checks": (lambda file: decode(file, 3, 2**26), files),
        "decode: Pillow": (lambda file: Image.open(BytesIO(file)).convert("RGB"), files),
        "decode: Pillow with draft": (drafted, files),
        "resize: torch, bilinear": (lambda each: resize(each[part], out, "bilinear"), pixels),
        "resize: torch, bicubic": (lambda each: resize(each[part], out, "bicubic"), pixels),
        "resize: torchvision v2, bicubic": (
            lambda each: v2.functional.resized_crop(each, 40, 60, 280, 380, [SIZE, SIZE], bicubic, True),
            tensors,
        ),
        "resize: Pillow, bilinear": (lambda each: each.crop(box).resize((SIZE, SIZE), 2), pictures),
        "resize: Pillow, bicubic": (lambda each: each.crop(box).resize((SIZE, SIZE), 3), pictures),
        "RandAugment": (augmenter.policy, small),
        **_opencv(files, pixels, part),
    }
    for name, (step, inputs) in steps.items():
        taken = []
        for _ in range(rounds):
            start = time.process_time()
            for each in inputs:
                step(each)
            taken.append((time.process_time() - start) / len(inputs) * 1e6)
        print(f"  {name}: {statistics.median(taken):.0f} us")


def _opencv(files: list[bytes], pixels: list[NDArray[np.uint8]], part: object) -> dict[str, object]:
    try:
        import cv2
    except ImportError:
        return {}
    cv2.setNumThreads(1)
    size = (SIZE, SIZE)
    return {
        "decode: OpenCV": (lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB), files),
        "resize: OpenCV, bilinear without a low-pass": (lambda each: cv2.resize(each[part], size), pixels),
        "resize: OpenCV, area": (lambda each: cv2.resize(each[part], size, interpolation=cv2.INTER_AREA), pixels),
    }


def tell(rates: dict[str, list[tuple[float, float]]], bars: dict[tuple[str, str], float]) -> None:
    """Print a line for each side and each bar."""
    for side, of_side in rates.items():
        processor, wall = (statistics.median(each) for each in zip(*of_side, strict=True))
        print(f"  {side}: {processor:.0f} images a second of processor time, {wall:.0f} by the clock")
    for (one, other), bar in bars.items():
        ratios = [first[0] / second[0] for first, second in zip(rates[one], rates[other], strict=True)]
        spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{one} / {other}: {statistics.median(ratios):.2f}, {spread} (bar {bar:.2f})")


def main() -> None:
    """Make the images, measure, and print a line for each side and each bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6144)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stages", action="store_true", help="also what installs here, a stage at a time")
    parser.add_argument("--shards", action="store_true", help="tar shards on S3 and on a disk instead")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, timm {timm.__version__}, one core")
    with tempfile.TemporaryDirectory(prefix="dvt-loading-") as name:
        images = make_images(Path(name), asked.images)
        count = asked.images // BATCH * BATCH  # what does not fill a batch is left out
        sides: dict[str, Callable[[], Iterator[object]]] = {
            "bare decoding": partial(bare, images),
            "ours": partial(ours, images, None),
            "timm": partial(timms, Path(name), None, True),
            "timm, prefetcher": partial(timms, Path(name), None, False),
            "ours, RandAugment": partial(ours, images, POLICY),
            "timm, RandAugment": partial(timms, Path(name), POLICY, True),
        }
        if asked.shards:
            with shard_sides.shard_sides(Path(name), images, partial(ours, policy=None)) as sides:
                tell(measure(sides, count, asked.rounds), shard_sides.BARS)
            return
        tell(measure(sides, count, asked.rounds), BARS)
        if asked.stages:
            stages(images, asked.rounds)


if __name__ == "__main__":
    main()
