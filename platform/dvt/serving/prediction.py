"""What a model says of image files: a row each, read ahead and classified batch by batch, leaving early.

A `Classifier` can be sent to other processes, which then need neither a registry nor MLflow.

Shapes: E exits.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice

import pyarrow as pa
import torch
from torch import Tensor

from dvt.data.image_files import FoundFile, ReadFile, read_files
from dvt.data.transforms import Transform
from dvt.exits import Confidence, Thresholds
from dvt.inference import EarlyExit
from dvt.models import Cascade, macs_per_exit

MAX_PENDING = 4096  # images whose predictions wait for one before them; also the largest batch

# The columns of an output file, and the fields of `Prediction`.
PREDICTIONS = pa.schema(
    {
        "image": pa.string(),
        "label": pa.int64(),
        "class_name": pa.string(),
        "confidence": pa.float32(),
        "prob": pa.float32(),
        "exit_index": pa.int64(),
        "macs": pa.float64(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class Prediction:
    """What became of one image; a row of the output file."""

    image: str  # its path or address
    label: int | None = None  # None where it could not be read, as all that follows
    class_name: str | None = None
    confidence: float | None = None  # what the threshold of its exit was compared with
    prob: float | None = None  # of the label, at its exit
    exit_index: int | None = None  # from 1, as people count exits
    macs: float | None = None  # what it cost
    error: str | None = None  # why it could not be read


def predictions_table(rows: Iterable[Prediction]) -> pa.Table:
    r"""The rows as a table; bytes of a file's name that are no text are told as such, as `\udcff`."""
    return pa.Table.from_pylist(
        [{**asdict(row), "image": row.image.encode("utf-8", "backslashreplace").decode()} for row in rows],
        schema=PREDICTIONS,
    )


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model, the thresholds to leave by, and what it takes to use both on image files."""

    cascade: Cascade
    thresholds: Thresholds  # (E,)
    confidence: Confidence  # what the thresholds are of
    class_names: tuple[str, ...]
    transform: Transform  # from a decoded image to the model's input

    @property
    def macs(self) -> tuple[float, ...]:
        """(E,), what an image costs that leaves at each exit."""
        return tuple(map(float, macs_per_exit(self.cascade.config)))

    def digest(self) -> str:
        """Of the weights, class names and preprocessing: what two models have in common that say the same of images."""
        state = self.cascade.state_dict()
        digest = sha256(repr((self.cascade.config, self.class_names, self.transform)).encode())
        for name in sorted(state):
            array = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
            digest.update(array.view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def engine(self, device: torch.device, max_wait_s: float = math.inf) -> EarlyExit:
        """The model on a device, ready to classify; `max_wait_s` as of `EarlyExit`."""
        return EarlyExit(self.cascade.to(device), self.thresholds, self.confidence, max_wait_s=max_wait_s)

    def classify(self, engine: EarlyExit, found: Iterable[FoundFile], batch_size: int) -> Iterator[list[Prediction]]:
        """Read and classify image files; what cannot be read gets a row that tells why.

        Args:
            engine: What `engine` gave.
            found: The files; taken only as far as they are read.
            batch_size: Images that are classified together, from 1 to `MAX_PENDING`.

        Yields:
            One row a file, batch by batch, in order.
        """
        read = read_files(found, self.transform, self.cascade.config.in_chans, ahead=2 * batch_size)
        batches = iter(lambda: list(islice(read, batch_size)), [])
        config = self.cascade.config
        empty = torch.zeros(0, config.in_chans, config.image_size, config.image_size)
        under_way: deque[list[ReadFile]] = deque()  # without their images, which the engine drops as soon as it can

        def images() -> Iterator[Tensor]:
            for batch in batches:
                under_way.append([replace(file, image=None) for file in batch])
                given = [file.image for file in batch if file.image is not None]
                yield torch.stack(given) if given else empty

        costs = self.macs
        for result in engine.stream(images(), max_pending=MAX_PENDING):
            probs = result.probs.gather(1, result.label[:, None])[:, 0]
            columns = (result.label, result.confidence, probs, result.exit_index)
            rows = zip(*(column.tolist() for column in columns), strict=True)
            yield [self._prediction(file, rows, costs) for file in under_way.popleft()]

    def _prediction(
        self, file: ReadFile, rows: Iterator[tuple[int, float, float, int]], costs: tuple[float, ...]
    ) -> Prediction:
        """What became of a file; of one that could be read, what the next row tells."""
        if file.problem:
            return Prediction(file.address, error=file.problem)
        label, confidence, prob, index = next(rows)
        return Prediction(
            image=file.address,
            label=label,
            class_name=self.class_names[label],
            confidence=confidence,
            prob=prob,
            exit_index=index + 1,
            macs=costs[index],
        )
