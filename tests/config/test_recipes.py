"""Every YAML file that is shipped loads, round-trips, and says in its header what it is and how to run it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from dvt.config import ConfigError, OptimizerConfig, Recipe, load_recipe, recipe_to_yaml
from dvt.models import VARIANTS, macs_per_exit

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "jobs" / "recipes").glob("*.y*ml"))

# The variant that a recipe trains; `embedded` has a cascade of its own.
VARIANT_OF = {
    "cifar100_t2t_vit_14": "dvt_t2t_vit_14",
    "imagenet_deit_small": "dvt_deit_small",
    "imagenet_t2t_vit_12": "dvt_t2t_vit_12",
    "imagenet_t2t_vit_14": "dvt_t2t_vit_14",
}
OF_A_VARIANT = [path for path in RECIPES if path.stem in VARIANT_OF]


def named(path: Path) -> str:
    return path.stem


def header(path: Path) -> str:
    """The comment above the values, as one text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:end])


def test_the_recipes_that_are_promised_are_there() -> None:
    assert {path.name for path in RECIPES} >= {"embedded.yaml", *(f"{name}.yaml" for name in VARIANT_OF)}


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_a_recipe_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem  # so that `dvt-<recipe>` is found by the file's name
    copy = tmp_path / path.name
    copy.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe


@pytest.mark.parametrize("path", OF_A_VARIANT, ids=named)
def test_a_recipe_trains_the_variant_of_its_header(path: Path) -> None:
    variant, cascade = VARIANT_OF[path.stem], load_recipe(path).cascade
    assert re.search(rf"Cascade: {variant}\b", header(path))
    free = {name: getattr(cascade, name) for name in ("num_classes", "drop_path")}
    assert cascade == replace(VARIANTS[variant], **free)


@pytest.mark.parametrize("path", OF_A_VARIANT, ids=named)
def test_a_header_tells_source_cost_accuracy_and_command(path: Path) -> None:
    text = header(path)
    for part in ("Source: ", "Accuracy to expect: ", "Data: ", "Command:"):
        assert part in text, f"{path.name} must tell its {part!r}"
    assert f"--recipe jobs/recipes/{path.name}" in text
    told = [float(row) for row in re.findall(r"^\d +\d+x\d+ +(\S+) G$", text, re.MULTILINE)]
    grids = [int(row) for row in re.findall(r"^\d +(\d+)x\d+ +\S+ G$", text, re.MULTILINE)]
    config = VARIANTS[VARIANT_OF[path.stem]]
    assert grids == list(config.token_grids)
    assert told == pytest.approx([macs / 1e9 for macs in macs_per_exit(config)], rel=0.003)


def images_a_step(recipe: Recipe) -> int:
    return recipe.train.micro_batch_size * recipe.train.grad_accum_steps * recipe.cluster.num_workers


@pytest.mark.parametrize(
    ("name", "images", "lr", "weight_decay"),
    [
        ("imagenet_t2t_vit_12", 1024, 2e-3, 0.03),
        ("imagenet_t2t_vit_14", 512, 5e-4, 0.05),
        ("imagenet_deit_small", 1024, 1e-3, 0.05),  # the step is DeiT's own
    ],
)
def test_hyperparameters_of_the_paper(name: str, images: int, lr: float, weight_decay: float) -> None:
    recipe = load_recipe(ROOT / "jobs" / "recipes" / f"{name}.yaml")
    assert images_a_step(recipe) == images
    assert recipe.optimizer == OptimizerConfig(
        name="adamw",
        lr=lr,
        weight_decay=weight_decay,
        clip_grad=None,
        epochs=300,
        warmup_epochs=20,
        cooldown_epochs=10,
        warmup_lr=1e-6,
        min_lr=1e-5,
    )
    augment = recipe.data.augment
    assert augment.rand_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.mixup, augment.cutmix, augment.switch_prob, augment.mix_prob) == (0.8, 1.0, 0.5, 1.0)
    assert (augment.random_erasing, recipe.loss.label_smoothing, recipe.train.ema_decay) == (0.25, 0.1, 0.99996)
    assert (recipe.data.interpolation, recipe.data.crop_pct * 256, recipe.cascade.image_size) == ("bicubic", 224, 224)
    assert recipe.loss.exit_weights == ()  # the plain sum
    assert recipe.cluster.num_workers == 8
    assert recipe.cluster.use_gpu


def test_fine_tuning_starts_from_the_recipe_it_names() -> None:
    folder = ROOT / "jobs" / "recipes"
    tuned, start = load_recipe(folder / "cifar100_t2t_vit_14.yaml"), load_recipe(folder / "imagenet_t2t_vit_14.yaml")
    assert tuned.train.init_from == f"checkpoints/{start.name}"
    assert tuned.cascade == replace(start.cascade, num_classes=100)
    epochs, images = tuned.optimizer.total_epochs, 50_000 - tuned.data.calibration_images
    steps = epochs * images / images_a_step(tuned)
    assert steps == pytest.approx(21_000, rel=0.01)  # as the header tells
    assert tuned.train.ema_decay is not None
    assert 1 / (1 - tuned.train.ema_decay) < steps / 4


def test_overrides_reach_into_a_recipe() -> None:
    recipe = load_recipe(OF_A_VARIANT[-1], ["--cascade.image-size", "384", "--cascade.stages.2.token-grid=24"])
    assert (recipe.cascade.image_size, recipe.cascade.token_grids) == (384, (7, 10, 24))


# Files as people write them, wrong, and what they read then; {path} is the file's own.
BAD_FILES: dict[str, tuple[str, list[str]]] = {
    "tabs": ("name: a\ndata:\n\troot: x\n", ["{path} must be YAML, got an error at line 3: {tab}"]),
    "twice": (
        "name: a\ndata: {root: x}\noptimizer:\n  lr: 1e-3\n  lr: 2e-3\n",
        ["{path} must be YAML, got an error at line 5: lr twice"],
    ),
    "another tool's recipe": (
        "model: deit_small\nbatch-size: 128\nlr: 1e-3\n",
        [
            "model must be a known field, got 'model'; choose from {sections}",
            "batch-size must be a known field, got 'batch-size'; choose from {sections}",
            "lr must be a known field, got 'lr'; choose from {sections}",
            "name must be given",
        ],
    ),
    "a grid too fine": (
        "name: a\ndata: {root: x}\ncascade: {image_size: 32, family: t2t_vit}\n",
        [
            "cascade.stages.1.token_grid must be at most 8 for family t2t_vit and image_size 32, got 10",
            "cascade.stages.2.token_grid must be at most 8 for family t2t_vit and image_size 32, got 14",
        ],
    ),
    "grids that fall": (
        "name: a\ndata: {root: x}\ncascade: {stages: [{token_grid: 14}, {token_grid: 7}]}\n",
        ["cascade.stages must have strictly increasing token_grid, got 14, 7"],
    ),
    "no images": (
        "name: a\n",
        ["data.root must name an image folder for source folder, got null; add --data.root FOLDER"],
    ),
    "colour for grey digits": (
        "name: a\ndata: {source: embedded}\n",
        [
            "cascade.in_chans must be 1 for data.source embedded, got 3",
            "cascade.num_classes must be 10 for data.source embedded, got 1000",
        ],
    ),
    "numbers that are none": (
        "name: a\ndata: {root: x}\noptimizer: {lr: 1e-3x, epochs: 1.5, warmup_epochs: [1]}\n",
        [
            "optimizer.lr must be a number, got '1e-3x'",
            "optimizer.epochs must be a whole number, got 1.5",
            "optimizer.warmup_epochs must be a number, got [1]",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_its_sentences(name: str, tmp_path: Path) -> None:
    text, sentences = BAD_FILES[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    words = {
        "path": path,
        "tab": "found character '\\t' that cannot start any token",
        "sections": "name, cascade, data, optimizer, loss, train, exits, cluster, run",
    }
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).splitlines() == [sentence.format(**words) for sentence in sentences]
