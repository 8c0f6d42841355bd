"""Recipes from files and command lines: what is read, what is refused and in which words, and the way back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.config import (
    AugmentConfig,
    CascadeConfig,
    ClusterConfig,
    ConfigError,
    DataConfig,
    ExitsConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    StageConfig,
    TrainConfig,
    cascade_from_yaml,
    cascade_to_yaml,
    flatten,
    load_recipe,
    recipe_from_dict,
    recipe_to_yaml,
    to_dict,
)
from tests.unit.config.cascades import cascade_configs

SMALLEST = "name: a\ndata: {root: x}\n"
SECTIONS = "name, cascade, data, optimizer, loss, train, exits, cluster, run"
AUGMENT = "crop_scale, crop_padding, hflip, rand_augment, random_erasing, mixup, cutmix, mix_prob, switch_prob"
STAGE = "token_grid, feature_reuse_depth, relation_reuse_depth, relation_upstream_depth"

# Every field of one or the other differs from its default, and the words among them are those that YAML makes traps of.
UNUSUAL = Recipe(
    name="1e5",
    cascade=CascadeConfig(
        image_size=28,
        in_chans=1,
        num_classes=10,
        family="t2t_vit",
        embed_dim=48,
        depth=3,
        num_heads=4,
        mlp_ratio=2.5,
        qkv_bias=False,
        norm_eps=1e-5,
        drop_path=0.1,
        feature_reuse_dim=4,
        feature_reuse_hidden_dim=8,
        relation_reuse_ratio=1.5,
        stages=(
            StageConfig(token_grid=4),
            StageConfig(token_grid=7, feature_reuse_depth=1, relation_reuse_depth=2, relation_upstream_depth=0),
        ),
    ),
    data=DataConfig(
        source="embedded",
        root="no",
        calibration_images=5,
        train_images=7,
        test_images=9,
        seed=3,
        crop_pct=0.5,
        interpolation="bilinear",
        loader_workers=0,
        shuffle="exact",
        shuffle_window=13,
        shuffle_run=2,
        eval_batch_size=11,
        max_pixels=1234,
        cache_dir="/cache",
        cache_gib=2.5,
        augment=AugmentConfig(
            crop_scale=(0.5, 0.75),
            crop_padding=0.25,
            hflip=0.0,
            rand_augment=None,
            random_erasing=0.0,
            mixup=0.0,
            cutmix=0.5,
            mix_prob=0.5,
            switch_prob=0.25,
        ),
    ),
    optimizer=OptimizerConfig(
        name="lamb",
        lr=2e-5,
        weight_decay=1e-7,
        clip_grad=1.0,
        epochs=9,
        warmup_epochs=0.5,
        cooldown_epochs=0,
        warmup_lr=0.0,
        min_lr=1e-9,
    ),
    loss=LossConfig(exit_weights=(0.5, 1.0), label_smoothing=0.0, distill_weight=0.5, distill_temperature=2.0),
    train=TrainConfig(
        compile=True,
        micro_batch_size=2,
        grad_accum_steps=3,
        amp="off",
        ema_decay=None,
        seed=1,
        backbone_epochs=8,
        init_from="2026-01-02",
        log_every_steps=1,
        checkpoint_every_steps=5,
        max_skipped_steps=3,
        trace_steps=4,
    ),
    cluster=ClusterConfig(
        num_workers=2,
        use_gpu=True,
        cpus_per_worker=0.5,
        gpus_per_worker=0.25,
        max_failures=0,
        straggler_factor=2.5,
        straggler_logs=7,
    ),
    exits=ExitsConfig(
        budgets_macs=(1e9, 2.5e9), static_reference=True, confidence="margin", tolerated_loss=0.01, guarantee_level=0.9
    ),
    run=RunConfig(storage_path="off", name="12e34567", tracking_uri="null", experiment="y", is_registered=False),
)
UNUSUAL_VIT = replace(
    UNUSUAL,
    cascade=replace(
        UNUSUAL.cascade,
        family="vit",
        layer_scale=1e-5,
        num_registers=4,
        qk_norm=True,
        global_pool="avg",
        class_pos_embed=False,
    ),
    data=replace(UNUSUAL.data, engine="ray", loader_workers=3),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def told(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


# Values.


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, SMALLEST)) == Recipe(name="a", data=DataConfig(root="x"))


def test_numbers_and_words_are_what_they_look_like(tmp_path: Path) -> None:
    recipe = load_recipe(
        write(
            tmp_path,
            "name: off\n"
            "data: {root: no}\n"
            "train: {amp: off}\n"
            "optimizer: {lr: 2e-3, warmup_lr: 1e-6, epochs: 3e2, clip_grad: null}\n",
        )
    )
    assert (recipe.name, recipe.data.root, recipe.train.amp) == ("off", "no", "off")
    assert (recipe.optimizer.lr, recipe.optimizer.warmup_lr, recipe.optimizer.clip_grad) == (2e-3, 1e-6, None)
    assert recipe.optimizer.epochs == 300
    assert isinstance(recipe.optimizer.epochs, int)


def test_lists_become_tuples_and_whole_numbers_floats(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALLEST + "loss: {exit_weights: [1, 2, 3]}\ncascade: {mlp_ratio: 4}\n"))
    assert recipe.loss.exit_weights == (1.0, 2.0, 3.0)
    assert isinstance(recipe.loss.exit_weights[0], float)
    assert isinstance(recipe.cascade.mlp_ratio, float)


def test_reuse_depths_are_numbers_or_all(tmp_path: Path) -> None:
    text = SMALLEST + "cascade: {stages: [{token_grid: 7}, {token_grid: 9, feature_reuse_depth: 2}]}\n"
    stage = load_recipe(write(tmp_path, text)).cascade.stages[1]
    assert (stage.feature_reuse_depth, stage.relation_reuse_depth) == (2, "all")


# What is refused.


REFUSED = [
    ("name: {a: 1}\n", ["name must be text, got {'a': 1}"]),
    ("run: {name: 5}\n", ["run.name must be text, got 5"]),
    ("casade: {}\n", ["casade must be a known field, got 'casade'; did you mean cascade?"]),
    (
        "1: 2\n",
        [f"1 must be a known field, got 1; choose from {SECTIONS}"],
    ),
    (
        "data: {root: x, augment: {colour: 1}}\n",
        [f"data.augment.colour must be a known field, got 'colour'; choose from {AUGMENT}"],
    ),
    (
        "cascade: {stages: [{token_grid: 7, token_grids: 1}]}\n",
        ["cascade.stages.0.token_grids must be a known field, got 'token_grids'; did you mean token_grid?"],
    ),
    ("cascade: {stages: [{}]}\n", ["cascade.stages.0.token_grid must be given"]),
    ("cascade: {stages: [7]}\n", ["cascade.stages.0 must hold fields and values, got 7"]),
    ("cascade: {stages: 7}\n", ["cascade.stages must be a list, got 7"]),
    ("cascade: {stages: {token_grid: 7}}\n", ["cascade.stages must be a list, got {'token_grid': 7}"]),
    ("cascade: null\n", ["cascade must hold fields and values, got null"]),
    ("cascade: [1]\n", ["cascade must hold fields and values, got [1]"]),
    (
        "cascade: {stages: [{token_grid: 7, feature_reuse_depth: some}]}\n",
        ["cascade.stages.0.feature_reuse_depth must be a whole number or 'all', got 'some'"],
    ),
    (
        "cascade: {stages: [{token_grid: 7, feature_reuse_depth: 1.5}]}\n",
        ["cascade.stages.0.feature_reuse_depth must be a whole number or 'all', got 1.5"],
    ),
    (
        "cascade: {stages: [{token_grid: 7, feature_reuse_depth: true}]}\n",
        ["cascade.stages.0.feature_reuse_depth must be a whole number or 'all', got true"],
    ),
    ("cascade: {depth: true}\n", ["cascade.depth must be a whole number, got true"]),
    ("cascade: {depth: null}\n", ["cascade.depth must be a whole number, got null"]),
    ("cascade: {depth: 1.5}\n", ["cascade.depth must be a whole number, got 1.5"]),
    ("cascade: {depth: deep}\n", ["cascade.depth must be a whole number, got 'deep'"]),
    ("cascade: {depth: .inf}\n", ["cascade.depth must be a whole number, got inf"]),
    ("cascade: {depth: [1]}\n", ["cascade.depth must be a whole number, got [1]"]),
    ("cascade: {mlp_ratio: true}\n", ["cascade.mlp_ratio must be a number, got true"]),
    ("cascade: {mlp_ratio: wide}\n", ["cascade.mlp_ratio must be a number, got 'wide'"]),
    ("cascade: {mlp_ratio: .nan}\n", ["cascade.mlp_ratio must be a number, got nan"]),
    ("optimizer: {clip_grad: false}\n", ["optimizer.clip_grad must be a number, got false"]),
    ("optimizer: {lr: {x: 3}}\n", ["optimizer.lr must be a number, got {'x': 3}"]),
    ("cascade: {in_chans: 2}\n", ["cascade.in_chans must be 1 or 3, got 2"]),
    ("cascade: {in_chans: true}\n", ["cascade.in_chans must be 1 or 3, got true"]),
    ("cascade: {family: resnet}\n", ["cascade.family must be 'vit' or 't2t_vit', got 'resnet'"]),
    ("train: {amp: false}\n", ["train.amp must be 'auto' or 'off', got false"]),
    ("cluster: {use_gpu: maybe}\n", ["cluster.use_gpu must be true or false, got 'maybe'"]),
    ("cluster: {use_gpu: 2}\n", ["cluster.use_gpu must be true or false, got 2"]),
    ("loss: {exit_weights: 1}\n", ["loss.exit_weights must be a list, got 1"]),
    (
        "loss: {exit_weights: [1, true, a]}\n",
        ["loss.exit_weights.1 must be a number, got true", "loss.exit_weights.2 must be a number, got 'a'"],
    ),
    ("exits: {budgets_macs: [-1]}\n", ["exits.budgets_macs.0 must be greater than 0, got -1"]),
    ("optimizer: {epochs: 5}\n", ["optimizer.warmup_epochs must be at most epochs 5, got 20"]),
]


@pytest.mark.parametrize(("text", "sentences"), REFUSED, ids=[row[0].strip() for row in REFUSED])
def test_a_bad_field_is_told(tmp_path: Path, text: str, sentences: list[str]) -> None:
    given_names = {line.partition(":")[0] for line in text.splitlines()}
    needed = [line for line in ("name: a", "data: {root: x}") if line.partition(":")[0] not in given_names]
    assert told(write(tmp_path, "\n".join([*needed, text]))) == sentences


@pytest.mark.parametrize(
    ("crop_scale", "sentence"),
    [
        ("[0.1]", "data.augment.crop_scale.1 must be given"),
        ("[0.1, 0.5, 1]", "data.augment.crop_scale must hold 2 values, got 3"),
        ("[0.1, true]", "data.augment.crop_scale.1 must be a number, got true"),
    ],
)
def test_a_pair_holds_two(tmp_path: Path, crop_scale: str, sentence: str) -> None:
    path = write(tmp_path, f"name: a\ndata: {{root: x, augment: {{crop_scale: {crop_scale}}}}}\n")
    assert told(path) == [sentence]


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "x: 1\ncascade: {stages: [{token_grid: 2, toke: 3}], depth: 0, num_heads: 7}\n"
        "optimizer: {lr: 0, epochs: ten}\ndata: {root: 5}\n",
    )
    assert told(path, "--train.sed", "1", "--run", "word", "--cascade.stages.4.token-grid", "3") == [
        "cascade.stages.4.token_grid must name an entry of cascade.stages, got 4; choose from 0 to 0",
        f"x must be a known field, got 'x'; choose from {SECTIONS}",
        f"cascade.stages.0.toke must be a known field, got 'toke'; choose from {STAGE}",
        "train.sed must be a known field, got 'sed'; did you mean seed?",
        "name must be given",
        "cascade.depth must be at least 1, got 0",
        "cascade.num_heads must divide embed_dim 384, got 7",
        "data.root must be text, got 5",
        "optimizer.epochs must be a whole number, got 'ten'",
        "run must hold fields and values, got 'word'",
    ]


def test_rules_that_compare_sections_are_told_once_the_sections_are_valid(tmp_path: Path) -> None:
    assert told(write(tmp_path, "name: a\nloss: {exit_weights: [1]}\n")) == [
        "loss.exit_weights must hold one weight for each of the 3 stages, got 1",
        "data.root must name an image folder for source folder, got null; add --data.root FOLDER",
    ]


def test_a_missing_name_is_told_once() -> None:
    assert told(None) == ["name must be given"]
    assert told(None, "--name", "--data.root=x") == ["name must be followed by a value, got none"]


FILES = [
    ("", "must hold fields and values, got nothing"),
    ("# only a comment\n", "must hold fields and values, got nothing"),
    ("- name: a\n", "must hold fields and values, got a list"),
    ("name\n", "must hold fields and values, got one value"),
    ("name: a: b\n", "must be YAML, got an error at line 1: mapping values are not allowed here"),
    ("name: a\nrun: {}\nname: b\n", "must be YAML, got an error at line 3: name twice"),
    ("train:\n  seed: 1\n  seed: 2\n", "must be YAML, got an error at line 3: seed twice"),
]


@pytest.mark.parametrize(("text", "rule"), FILES)
def test_a_bad_file_is_told_by_its_name(tmp_path: Path, text: str, rule: str) -> None:
    path = write(tmp_path, text)
    assert told(path) == [f"{path} {rule}"]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert told(missing) == [f"--recipe must name a readable YAML file, got {missing} (No such file or directory)"]
    assert told(tmp_path) == [f"--recipe must name a readable YAML file, got {tmp_path} (Is a directory)"]
    picture = tmp_path / "picture.yaml"
    picture.write_bytes(b"\xff\xd8\xff\xe0")
    assert told(picture) == [f"--recipe must name a readable YAML file, got {picture} (not a text file)"]


# Overrides.


def test_overrides_stand_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "train: {seed: 1, init_from: y}\n")
    recipe = load_recipe(
        path, ["--train.seed", "2", "--optimizer.warmup-lr=1e-7", "--run.name", "b-c", "--train.init-from=null"]
    )
    assert (recipe.train.seed, recipe.train.init_from) == (2, None)
    assert recipe.optimizer.warmup_lr == 1e-7
    assert recipe.run.name == "b-c"
    assert recipe.data.root == "x"


def test_the_last_of_two_overrides_wins() -> None:
    assert load_recipe(None, ["--name=a", "--data.root=x", "--name=b"]).name == "b"


def test_dashes_and_underscores_are_the_same() -> None:
    recipe = load_recipe(None, ["--name=a", "--data.root=x", "--train.grad_accum_steps=2", "--train.log-every-steps=3"])
    assert (recipe.train.grad_accum_steps, recipe.train.log_every_steps) == (2, 3)


def test_override_values_are_yaml() -> None:
    recipe = load_recipe(
        None,
        [
            "--name",
            "a",
            "--data",
            "{root: a=b, crop_pct: 1}",  # an equals sign of the value's own
            "--loss.exit-weights",
            "[1, 2]",
            "--cascade.stages=[{token_grid: 2}, {token_grid: 3, feature_reuse_depth: 0}]",
            "--optimizer.clip-grad=",  # nothing is null
        ],
    )
    assert recipe.data == DataConfig(root="a=b", crop_pct=1.0)
    assert recipe.loss.exit_weights == (1.0, 2.0)
    assert recipe.cascade.stages == (StageConfig(token_grid=2), StageConfig(token_grid=3, feature_reuse_depth=0))
    assert recipe.optimizer.clip_grad is None


def test_an_index_reaches_into_a_list_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "cascade: {stages: [{token_grid: 2}, {token_grid: 5}]}\n")
    recipe = load_recipe(path, ["--cascade.stages.1.feature-reuse-depth", "3", "--cascade.stages.0", "{token_grid: 4}"])
    assert recipe.cascade.stages == (StageConfig(token_grid=4), StageConfig(token_grid=5, feature_reuse_depth=3))


@pytest.mark.parametrize("cascade", ["", "cascade: {depth: 2}\n", "cascade:\n", "cascade: {stages: null}\n"])
def test_an_index_reaches_into_a_list_of_the_defaults(tmp_path: Path, cascade: str) -> None:
    path = write(tmp_path, SMALLEST + cascade)
    recipe = load_recipe(path, ["--cascade.stages.0.token-grid=3", "--data.augment.crop-scale.0", "0.2"])
    assert recipe.cascade.token_grids == (3, 10, 14)
    assert recipe.data.augment.crop_scale == (0.2, 1.0)
    assert load_recipe(write(tmp_path, SMALLEST)).cascade.token_grids == (7, 10, 14)  # the defaults stay as they are


OVERRIDES = [
    (["x"], "x must be a field such as --train.seed; put -- before its dotted path"),
    (["--"], "-- must be a field such as --train.seed; put -- before its dotted path"),
    (["-train.seed=3"], "-train.seed=3 must be a field such as --train.seed; put -- before its dotted path"),
    (["--train.seed"], "train.seed must be followed by a value, got none"),
    (["--train.seed", "--run.name=x"], "train.seed must be followed by a value, got none"),
    (["--run.name=[1"], "run.name must be a YAML value, got '[1'; quote it for the shell"),
    (["--run.name={a: 1, a: 2}"], "run.name must be a YAML value, got '{a: 1, a: 2}'; quote it for the shell"),
    (["--train.seed", "-1"], "train.seed must be at least 0, got -1"),
    (["--train.sede=1"], "train.sede must be a known field, got 'sede'; did you mean seed?"),
    (["--name.x", "3"], "name.x must lead to a field, got 'a' at name"),
    (["--optimizer.lr.x=3"], "optimizer.lr must be a number, got {'x': 3}"),
    (
        ["--cascade.stages.3.token-grid", "28"],
        "cascade.stages.3.token_grid must name an entry of cascade.stages, got 3; choose from 0 to 2",
    ),
    (
        ["--cascade.stages.last.token-grid", "28"],
        "cascade.stages.last.token_grid must name an entry of cascade.stages, got last; choose from 0 to 2",
    ),
    (["--cascade.stages.3=28"], "cascade.stages.3 must name an entry of cascade.stages, got 3; choose from 0 to 2"),
    (
        ["--loss.exit-weights.0=1"],
        "loss.exit_weights.0 must name an entry of loss.exit_weights, got 0; it has none, give the whole list as YAML",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), OVERRIDES, ids=[" ".join(row[0]) for row in OVERRIDES])
def test_a_bad_override_is_told(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert told(write(tmp_path, SMALLEST), *words) == [sentence]


# The way back.


def test_a_recipe_round_trips_through_yaml(tmp_path: Path) -> None:
    for recipe in (UNUSUAL, UNUSUAL_VIT, Recipe(name="a", data=DataConfig(root="x"))):
        assert load_recipe(write(tmp_path, recipe_to_yaml(recipe))) == recipe
        assert recipe_from_dict(to_dict(recipe)) == recipe


def test_the_unusual_recipes_are_unusual_everywhere() -> None:
    usual = flatten(to_dict(Recipe(name="a", data=DataConfig(root="x"))))
    unusual, unusual_vit = flatten(to_dict(UNUSUAL)), flatten(to_dict(UNUSUAL_VIT))
    same = {path for path, value in unusual.items() if usual.get(path) == value == unusual_vit[path]}
    # In the first stage only 0 and `all` are allowed, and of the second's depths two differ.
    assert same == {
        f"cascade.stages.0.{name}"
        for name in ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth")
    }


@settings(deadline=None, max_examples=60)
@given(config=cascade_configs())
def test_every_cascade_round_trips_through_yaml(config: CascadeConfig) -> None:
    assert cascade_from_yaml(cascade_to_yaml(config)) == config


@settings(deadline=None, max_examples=20)
@given(
    config=cascade_configs(),
    name=st.text("0123456789e-_", min_size=1, max_size=8),
    root=st.text(min_size=1).filter(lambda text: text.isprintable()),
)
def test_every_recipe_round_trips_through_its_dictionary(config: CascadeConfig, name: str, root: str) -> None:
    recipe = Recipe(name=name, cascade=config, data=DataConfig(root=root))
    assert recipe_from_dict(to_dict(recipe)) == recipe


def test_a_bad_cascade_text_is_told() -> None:
    sentences: dict[str, Any] = {
        "": "the cascade must hold fields and values, got nothing",
        "[1": "the cascade must be YAML, got an error at line 1: expected ',' or ']', but got '<stream end>'",
        "dept: 2": "dept must be a known field, got 'dept'; did you mean depth?",
        "num_heads: 5": "num_heads must divide embed_dim 384, got 5",
        "stages: [{token_grid: 0}]": "stages.0.token_grid must be at least 1, got 0",
    }
    for text, sentence in sentences.items():
        with pytest.raises(ConfigError) as caught:
            cascade_from_yaml(text)
        assert str(caught.value) == sentence


def test_dictionaries_hold_yamls_own_types() -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool, type(None))
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    check(to_dict(UNUSUAL))


def test_flattened_paths_worked_by_hand() -> None:
    tree = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": [{"g": 1}, {"g": 2}], "h": []}
    assert flatten(tree) == {"a": 1, "b.c": [1, 2], "b.d.e": None, "f.0.g": 1, "f.1.g": 2, "h": []}
