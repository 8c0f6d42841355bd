"""Training on a Ray cluster.

Ray Train starts the workers, joins them by DDP, restarts them after a failure and keeps the last and the best
checkpoint; Ray tasks measure the trained model on calibration and test images.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import ray
import torch
from ray import train as ray_train
from ray.exceptions import RayTaskError
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2.api.callback import UserCallback
from torch import Tensor

from dvt.config import Recipe, recipe_from_dict, to_dict
from dvt.config.logs import bind, done_for, following
from dvt.data import open_data
from dvt.exits import PLAIN, Confidence, ExitScores
from dvt.train.checkpoint import load_model
from dvt.train.cost import CostMeter
from dvt.train.errors import TrainingError
from dvt.train.evaluate import predict_images, score_images
from dvt.train.failures import FATAL, find_error, plain_error
from dvt.train.loop import BEST_METRIC, Loop, count_steps_per_epoch, train_cascade
from dvt.train.past_run import CHECKPOINTS, keep_snapshot, remove_orphans, restore_snapshot
from dvt.train.ray_checkpoint import arrow_filesystem, local_copy
from dvt.train.ray_elastic import FittingWorkers
from dvt.train.ray_network import PinnedConfig
from dvt.train.ray_notice import Board, ended_by_sigterm, noticing, open_board
from dvt.train.ray_report import RayReporter, rows_of
from dvt.train.sink import MetricSink, MetricSinkFactory
from dvt.train.storage import RunFolder
from dvt.train.worker import Worker

T = TypeVar("T")
Part = Literal["calibration", "test"]


@dataclass(frozen=True)
class DataSummary:
    """What the workers find where the recipe says the images are."""

    sizes: Mapping[str, int]  # number of images of each part
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprints: Mapping[str, str]  # of each part, see `ImageSet.fingerprint`


def summarize_data(recipe: Recipe) -> DataSummary:
    """Look at the images from a node of the cluster, before anything is trained.

    Raises:
        ConfigError: If the recipe's `data` or `cascade` does not fit what is there.
        DataError: If the images cannot be used.
    """
    return on_cluster(recipe, 1, _summarize, to_dict(recipe))[0]


def train_on_cluster(
    recipe: Recipe,
    folder: RunFolder,
    make_sink: MetricSinkFactory,
    loop: Loop = train_cascade,
    *,
    ends_by_sigterm: bool = False,
) -> ray_train.Checkpoint:
    """Train a recipe, going on where an earlier try of the same run ended.

    Args:
        recipe: The run.
        folder: Keeps its checkpoints.
        make_sink: Called on the driver's node to make the sink that metrics go to.
        loop: What every worker runs; crosses process borders.
        ends_by_sigterm: Whether SIGTERM to this process, whose main thread this is, lets workers write a checkpoint
            first; only where `loop` asks its worker's notice.

    Returns:
        The checkpoint with the highest calibration accuracy, averaged over exits.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written.
        DataError: If the images cannot be used.
        Terminated: If it ended by SIGTERM; its last checkpoint is kept.
        TrainingError: If the workers failed more often than `cluster.max_failures`, or too many steps in a row had a
            loss or gradients that are no numbers.
    """
    restore_snapshot(folder)
    remove_orphans(folder)
    with open_board() as board:
        trainer = _trainer(recipe, replace(folder, lock=None), make_sink, loop, board)
        try:
            with ended_by_sigterm(board) if ends_by_sigterm else nullcontext():
                result = trainer.fit()
        except ray_train.TrainingFailedError as error:
            raise plain_error(error) from error
    remove_orphans(folder)  # of workers that were killed and started again
    best: ray_train.Checkpoint | None = result.get_best_checkpoint(BEST_METRIC, "max")
    if best is None:
        raise TrainingError(f"run {folder.name} must end with a checkpoint, got none; was it interrupted? run it again")
    return best


def _trainer(recipe: Recipe, folder: RunFolder, make_sink: MetricSinkFactory, loop: Loop, board: Board) -> "_Trainer":
    cluster = recipe.cluster
    return _Trainer(
        _train_worker,
        torch_config=PinnedConfig(),
        train_loop_config={
            "recipe": to_dict(recipe),
            "loop": loop,
            "folder": folder,
            "board": board,
            "log_fields": following(),
        },
        scaling_config=ray_train.ScalingConfig(
            num_workers=cluster.num_workers,  # type: ignore[arg-type]  # a range, which Ray 2.60 does not tell mypy
            use_gpu=cluster.use_gpu,
            resources_per_worker=cluster.worker_resources,
        ),
        run_config=ray_train.RunConfig(
            name=CHECKPOINTS,
            storage_path=folder.path,
            storage_filesystem=arrow_filesystem(folder),
            failure_config=ray_train.FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=ray_train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=BEST_METRIC, checkpoint_score_order="max"
            ),
            callbacks=[_SinkCallback(make_sink, CostMeter.of(recipe, folder), folder)],  # type: ignore[list-item]  # Ray 2.60 names Tune's class there
        ),
    )


def score_on_cluster(
    recipe: Recipe, checkpoint: ray_train.Checkpoint, part: Part, confidence: Confidence = PLAIN
) -> ExitScores:
    """Measure a checkpoint's evaluated weights on calibration or test images, on as many workers as trained it.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If an image cannot be read.
    """
    shards = recipe.cluster.most_workers
    return ExitScores.join(on_cluster(recipe, shards, _look_at_shard, to_dict(recipe), checkpoint, part, confidence))


def predict_on_cluster(recipe: Recipe, checkpoint: ray_train.Checkpoint) -> tuple[Tensor, Tensor]:
    """What a checkpoint's evaluated weights say of the calibration images; errors as of `score_on_cluster`.

    Returns:
        Logits of shape (exits, images, classes) in float32, four bytes each, held on the driver's node, where joining
        them takes as much again for a moment; and labels (images,).
    """
    shards = recipe.cluster.most_workers
    parts = on_cluster(recipe, shards, _look_at_shard, to_dict(recipe), checkpoint, "calibration", None)
    return torch.cat([logits for logits, _ in parts], dim=1), torch.cat([labels for _, labels in parts])


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to Python, as Ray Train 2.60 takes it and ends with code 0; only takes as many workers as fit.

    Its images are not Ray Train's datasets, for which Ray Train 2.60 would keep a process beside each run.
    """

    def _register_sigint_handler(self, controller: Any) -> None:
        """Register nothing."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = cast(Any, super())._create_default_callbacks()  # Ray 2.60 shows another class to mypy
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **given: Any) -> ray_train.Result:
        trainer, parent = cast(Any, self), cast(Any, super())  # Ray 2.60 shows other classes to mypy
        if trainer.scaling_config.elasticity_enabled:
            counts = recipe_from_dict(trainer.train_loop_config["recipe"]).fitting_workers
            given["scaling_policy"] = FittingWorkers(trainer.scaling_config, counts)
        result: ray_train.Result = parent._initialize_and_run_controller(**given)
        return result


class _SinkCallback(UserCallback):
    """Passes what workers report to a sink, and ends a run whose error would come again.

    Ray Train 2.60 has no MLflow callback; this one runs in the controller, on the driver's node.
    """

    def __init__(self, make_sink: MetricSinkFactory, meter: CostMeter, folder: RunFolder) -> None:
        self._make_sink, self._meter, self._folder = make_sink, meter, folder
        self._sink: MetricSink | None = None

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: ray_train.Checkpoint | None
    ) -> None:
        if self._sink is None:  # made here, as a sink does not cross processes
            self._sink = self._make_sink()
        if checkpoint is not None:
            keep_snapshot(self._folder)
        for row in rows_of(metrics[0]):
            try:
                self._sink.log_metrics(row["metrics"] | self._meter.add(row["metrics"]), row["step"], row["time_ms"])
            except RuntimeError as error:  # the sink's, in one sentence
                again = "run the same command again to go on from the last checkpoint"
                raise TrainingError(f"{error}; {again}") from error

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if (cause := find_error(error, FATAL)) is not None:
                raise cause  # Ray Train retries what workers raise, but not what a callback raises


def _train_worker(config: dict[str, Any]) -> None:
    recipe = recipe_from_dict(config["recipe"])
    context = ray_train.get_context()
    ranks = context.get_world_rank(), context.get_world_size(), context.get_node_rank(), context.get_local_rank()
    bind(rank=ranks[0], world_size=ranks[1], **config["log_fields"])
    data = open_data(recipe.data, recipe.cascade)
    reporter = RayReporter(config["folder"])
    with noticing(Worker(get_device(), *ranks), config["board"]) as worker:
        try:
            config["loop"](recipe, data, worker, reporter)
        finally:
            reporter.join()


def _summarize(tree: dict[str, Any], shard: int, num_shards: int) -> DataSummary:
    recipe = recipe_from_dict(tree)
    data = open_data(recipe.data, recipe.cascade)
    count_steps_per_epoch(recipe, len(data.train), recipe.cluster.most_workers)  # told before a run is begun
    parts = {"train": data.train, "calibration": data.calibration, "test": data.test}
    return DataSummary(
        sizes={name: len(images) for name, images in parts.items()},
        class_names=data.class_names,
        mean=data.mean,
        std=data.std,
        fingerprints={name: images.fingerprint() for name, images in parts.items()},
    )


def _look_at_shard(
    tree: dict[str, Any], checkpoint: ray_train.Checkpoint, part: Part, confidence: Confidence | None, *shards: int
) -> Any:
    """Scores by a confidence, or logits and labels where there is none yet."""
    recipe = recipe_from_dict(tree)
    device = torch.device("cuda" if recipe.cluster.use_gpu else "cpu")
    with local_copy(checkpoint) as folder:
        model = load_model(folder).to(device)
    data = open_data(recipe.data, recipe.cascade)
    images = data.calibration if part == "calibration" else data.test
    if confidence is None:
        return predict_images(model, images, recipe.data, device, shards[0], shards[1])
    return score_images(model, images, recipe.data, device, shards[0], shards[1], confidence)


def on_cluster(recipe: Recipe, num_shards: int, work: Callable[..., T], *args: Any) -> list[T]:
    """Run `work` as one Ray task a shard, each with a worker's resources, by `args`, its shard and `num_shards`."""
    task: Any = ray.remote(done_for)
    resources = recipe.cluster.worker_resources
    task = task.options(name=work.__name__, num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    sent = [task.remote(following(), work, *args, shard, num_shards) for shard in range(num_shards)]
    try:
        return list(ray.get(sent))
    except RayTaskError as error:
        raise plain_error(error) from error
