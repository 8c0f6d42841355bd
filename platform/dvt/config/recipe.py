"""`Recipe`: one run, from data to registered model, as plain frozen dataclasses.

The comment behind a field is its documentation: meaning, unit and range; `dvt train --help` prints it.
"""

from dataclasses import dataclass, field
from typing import Literal

from dvt.config.cascade import CascadeConfig
from dvt.config.cluster import ClusterConfig
from dvt.config.data import FIXED_BY_SOURCE, DataConfig
from dvt.config.problems import Rules


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, from timm's factory, and its schedule: linear warm-up, cosine, cool-down."""

    name: str = "adamw"  # optimizer by its name in timm
    lr: float = 1e-3  # peak learning rate for the global batch as it is; never rescaled
    weight_decay: float = 0.05  # decay of weights; norms, biases and position embeddings have none
    clip_grad: float | None = None  # largest gradient norm; null does not clip
    epochs: int = 300  # epochs up to the end of the cosine
    warmup_epochs: float = 20  # epochs of linear warm-up, counted into epochs
    cooldown_epochs: int = 10  # epochs at min_lr after the cosine
    warmup_lr: float = 1e-6  # learning rate at the first step
    min_lr: float = 1e-5  # learning rate at the end of the cosine and in the cool-down

    def __post_init__(self) -> None:
        rules = Rules()
        rules.at_least("epochs", self.epochs, 1)
        for name in ("weight_decay", "warmup_epochs", "cooldown_epochs", "warmup_lr", "min_lr"):
            rules.at_least(name, getattr(self, name), 0)
        rules.above("lr", self.lr, 0)
        for name in ("warmup_lr", "min_lr"):
            rate = getattr(self, name)
            rules.require(rate <= self.lr, name, f"must be at most lr {self.lr!r}, got {rate!r}")
        if self.clip_grad is not None:
            rules.above("clip_grad", self.clip_grad, 0)
        rules.require(
            self.warmup_epochs <= self.epochs,
            "warmup_epochs",
            f"must be at most epochs {self.epochs}, got {self.warmup_epochs:.15g}",
        )
        rules.enforce()

    @property
    def total_epochs(self) -> int:
        """Epochs of the run, cool-down included."""
        return self.epochs + self.cooldown_epochs


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The sum over exits of weighted cross-entropies with soft targets, and what may be added to it."""

    exit_weights: tuple[float, ...] = ()  # weight of each exit's cross-entropy; none given is 1 for all
    label_smoothing: float = 0.1  # share of the target spread evenly over all classes
    distill_weight: float = 0.0  # weight of pulling earlier exits to the last one's probabilities, which stay detached
    distill_temperature: float = 1.0  # temperature of both sides of the distillation

    def __post_init__(self) -> None:
        rules = Rules()
        for index, weight in enumerate(self.exit_weights):
            rules.at_least(f"exit_weights.{index}", weight, 0)
        rules.between("label_smoothing", self.label_smoothing, 0, 0.99)
        rules.at_least("distill_weight", self.distill_weight, 0)
        rules.above("distill_temperature", self.distill_temperature, 0)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What one training step is, and how often its results are kept."""

    micro_batch_size: int = 128  # images of one forward and backward pass of one worker
    grad_accum_steps: int = 1  # passes added up before the optimizer steps
    amp: Literal["auto", "off"] = "auto"  # bfloat16 autocast where the device is good at it, or float32 always
    compile: bool = False  # whether torch.compile fuses the stages; pays on a GPU, after minutes of compiling
    ema_decay: float | None = 0.99996  # decay a step of the averaged weights; null keeps none
    seed: int = 0  # seed of weights, order, augmentation and dropout
    backbone_epochs: int = 0  # first epochs in which each stage trains by itself, blind to the one before; then jointly
    # checkpoint folder to take weights from, or a ViT to fill every stage with: timm:NAME, or a file of its weights
    # (.safetensors, .pth, .pt, .bin) that timm can convert; heads are left out where classes differ
    init_from: str | None = None
    log_every_steps: int = 100  # steps between two rows of the training metrics
    # steps between two checkpoints within an epoch, each with a row of metrics; null keeps them at epochs' ends only
    checkpoint_every_steps: int | None = None
    # steps in a row with a loss or gradients that are no numbers which are passed over; one more ends the run
    max_skipped_steps: int = 10
    trace_steps: int = 0  # steps of the first worker that are profiled after ten others, into trace/ of the run; 20 do

    def __post_init__(self) -> None:
        rules = Rules()
        for name in ("micro_batch_size", "grad_accum_steps", "log_every_steps"):
            rules.at_least(name, getattr(self, name), 1)
        for name in ("seed", "backbone_epochs", "max_skipped_steps", "trace_steps"):
            rules.at_least(name, getattr(self, name), 0)
        if self.checkpoint_every_steps is not None:
            rules.at_least("checkpoint_every_steps", self.checkpoint_every_steps, 1)
        if self.ema_decay is not None:
            rules.between("ema_decay", self.ema_decay, 0, 1)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class ExitsConfig:
    """When images leave: the budgets that thresholds are chosen for, by what, and what is promised and compared."""

    budgets_macs: tuple[float, ...] = ()  # mean multiply-adds an image; none given is three between first and last exit
    # what thresholds are of; auto takes the measure, with or without temperatures, of the best calibration front
    confidence: Literal["auto", "max_probability", "margin", "negative_entropy"] = "auto"
    tolerated_loss: float = 0.005  # accuracy that thresholds may be promised to lose at most, from 0 to 1
    guarantee_level: float = 0.95  # probability that the promise holds, between 0 and 1
    static_reference: bool = False  # also train one static model of the last grid with the same recipe, for the plot

    def __post_init__(self) -> None:
        rules = Rules()
        rules.between("tolerated_loss", self.tolerated_loss, 0, 1)
        rules.require(
            0 < self.guarantee_level < 1,
            "guarantee_level",
            f"must be greater than 0 and less than 1, got {self.guarantee_level:g}",
        )
        for index, budget in enumerate(self.budgets_macs):
            rules.above(f"budgets_macs.{index}", budget, 0)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run keeps its checkpoints and what MLflow calls it."""

    storage_path: str = "runs"  # folder or s3:// address that every node can reach; holds one folder a run
    name: str | None = None  # name of the run; null goes on with the unfinished run of the same recipe, or starts one
    tracking_uri: str | None = None  # MLflow server; null is MLFLOW_TRACKING_URI or a SQLite file beside the runs
    experiment: str = "dvt"  # MLflow experiment that the run belongs to
    is_registered: bool = True  # whether the model is registered as dvt-<recipe> with alias candidate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run, from data to registered model."""

    name: str  # names the run and the registered model, dvt-<name>
    cascade: CascadeConfig = field(default_factory=CascadeConfig)  # the model
    data: DataConfig = field(default_factory=DataConfig)  # the images
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # the optimizer and its schedule
    loss: LossConfig = field(default_factory=LossConfig)  # the loss
    train: TrainConfig = field(default_factory=TrainConfig)  # the training step
    exits: ExitsConfig = field(default_factory=ExitsConfig)  # the thresholds and the front
    cluster: ClusterConfig = field(default_factory=ClusterConfig)  # the workers
    run: RunConfig = field(default_factory=RunConfig)  # the records

    def __post_init__(self) -> None:
        rules = Rules()
        rules.require(
            bool(self.name) and all(letter.isalnum() or letter in "_-" for letter in self.name),
            "name",
            f"must be letters, digits, - and _ only, got {self.name!r}",
        )
        rules.require(
            len(self.loss.exit_weights) in (0, self.cascade.num_exits),
            "loss.exit_weights",
            f"must hold one weight for each of the {self.cascade.num_exits} stages, got {len(self.loss.exit_weights)}",
        )
        epochs = self.optimizer.total_epochs
        rules.require(
            self.train.backbone_epochs < epochs,
            "train.backbone_epochs",
            f"must be less than the {epochs} epochs of optimizer, got {self.train.backbone_epochs}",
        )
        rules.require(
            self.data.source == "embedded" or self.data.root is not None,
            "data.root",
            f"must name {self.data.root_told}, got null; add --data.root FOLDER",
        )
        for name in ("calibration_images", "test_images"):
            count, workers = getattr(self.data, name), self.cluster.most_workers
            rules.require(
                count >= workers, f"data.{name}", f"must be at least cluster.num_workers {workers}, got {count}"
            )
        least, most = self.cluster.worker_range
        rules.require(
            self.most_micro_batches % least == 0,
            "cluster.num_workers.0",
            f"must divide the {self.most_micro_batches} micro-batches of a step (train.grad_accum_steps "
            f"{self.train.grad_accum_steps} of {most} workers), got {least}; "
            f"choose from {', '.join(map(str, self.fitting_workers))}",
        )
        for name, value in FIXED_BY_SOURCE.get(self.data.source, {}).items():
            got = getattr(self.cascade, name)
            rules.require(
                got == value, f"cascade.{name}", f"must be {value} for data.source {self.data.source}, got {got}"
            )
        if self.data.augment.mixup > 0 or self.data.augment.cutmix > 0:
            rules.require(
                self.train.micro_batch_size % 2 == 0,
                "train.micro_batch_size",
                f"must be even while mixup or cutmix is on, got {self.train.micro_batch_size}",
            )
        rules.enforce()

    @property
    def most_micro_batches(self) -> int:
        """Micro-batches of a step over all workers, where there are the most."""
        return self.train.grad_accum_steps * self.cluster.most_workers

    @property
    def fitting_workers(self) -> tuple[int, ...]:
        """Numbers of workers up to the most that share out the micro-batches of a step evenly, in rising order."""
        counts = range(1, self.cluster.most_workers + 1)
        return tuple(count for count in counts if self.most_micro_batches % count == 0)
