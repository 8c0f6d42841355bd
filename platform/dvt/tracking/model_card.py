"""The model card: what a registered model is, what it reached, what it is for, as Markdown that a person reads first.

After Mitchell et al., "Model Cards for Model Reporting", 2019. It tells what its run knows and nothing else; sections
without anything to tell are left out. A version's description holds it, and behind it what the gate said.
"""

import math
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from dvt.exits import Thresholds
from dvt.models import macs_per_exit
from dvt.models.told_amounts import told_macs
from dvt.tracking.errors import without_credentials

if TYPE_CHECKING:  # it sets the card as it registers a model
    from dvt.tracking import ModelContent

LONGEST = 5000  # characters of a description in MLflow 3.17's database
GATE_HEADING = "\n\n## Gate\n\n"  # before the gate's section, which is the last
_CUT = "\n\n(cut)"
_MAX_CLASSES = 12  # names told


def model_card(content: "ModelContent") -> str:
    """The card of a model.

    Args:
        content: What the model is made of.

    Returns:
        Markdown that ends without a line break; the same content gives the same text.
    """
    parts = [
        _what(content),
        "## Data\n\n" + _data(content),
        "## Exits\n\n" + _exits(content),
        _budgets(content),
        _promise(content),
        "## Use and limits\n\n" + _limits(content),
        "## Load\n\n" + _loading(content),
    ]
    return "\n\n".join(part for part in parts if part)


def description_of(description: str, gate: str) -> str:
    """A version's description with what the gate says, in place of what it said before.

    Args:
        description: The description until now: a card, and perhaps a gate's section behind it.
        gate: The new section, without heading. What is too long is cut at a line, the card's end first.
    """
    card = description.partition(GATE_HEADING)[0]
    section = _shortened(GATE_HEADING + gate, LONGEST // 2)
    return _shortened(card, LONGEST - len(section)) + section


def keep_card(client: MlflowClient, version: ModelVersion, content: "ModelContent") -> None:
    """Describe a version by its card, cut at a line if it is too long; a description that it has stays.

    Args:
        client: Of the registry.
        version: The version.
        content: What its model is made of.

    Raises:
        MlflowException: If MLflow refuses.
    """
    if not version.description:
        client.update_model_version(version.name, version.version, _shortened(model_card(content), LONGEST))


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return text[: longest - len(_CUT)].rpartition("\n")[0] + _CUT


def _what(content: "ModelContent") -> str:
    config, recipe = content.recipe.cascade, content.recipe
    names = ", ".join(content.class_names[:_MAX_CLASSES])
    more = len(content.class_names) - _MAX_CLASSES
    classes = f"{names} and {more} more" if more > 0 else names
    grids = ", ".join(f"{grid}x{grid}" for grid in config.token_grids)
    exits = "1 exit" if config.num_exits == 1 else f"{config.num_exits} exits"
    kind = f"{config.image_size}x{config.image_size} pixels and {config.in_chans} channel"
    return (
        f"# {recipe.name}\n\n"
        f"A Dynamic Vision Transformer (Wang et al., NeurIPS 2021): a cascade of {config.family} transformers of "
        f"{grids} tokens with {exits}. An image leaves at the first exit that is sure enough, within a budget that "
        f"each request names.\n\n"
        f"- takes images of {kind}{'' if config.in_chans == 1 else 's'}\n"
        f"- tells {len(content.class_names)} classes: {classes}\n"
        f"- recipe `{recipe.name}`, weights of step {content.step:,}"
    )


def _data(content: "ModelContent") -> str:
    data = content.recipe.data
    if data.source == "embedded":
        return (
            f"Trained on digits in clutter, made from scikit-learn's digits with seed {data.seed}; thresholds "
            f"chosen on {data.calibration_images:,} and measured on {data.test_images:,} scenes of digits that "
            "training has not seen."
        )
    is_folder = data.source == "folder"
    what, tested = ("the image folder", "folder `val`") if is_folder else (f"{data.source} from", "test images")
    return (
        f"Trained on {what} `{without_credentials(str(data.root))}`, less {data.calibration_images:,} of its "
        f"training images, on which thresholds were chosen; measured on its {tested}."
    )


def _exits(content: "ModelContent") -> str:
    config, report = content.recipe.cascade, content.report
    top1 = [f"{100 * row.test_top1:.2f} %" for row in report.exits] if report is not None else []
    title = "test top-1"
    if not top1 and content.published_top1:
        top1, title = [f"{100 * share:.2f} %" for share in content.published_top1], "top-1 as published"
    head = f"| exit | tokens | MACs |{f' {title} |' if top1 else ''}"
    rows = [head, "|" + "---|" * (4 if top1 else 3)]
    for index, (grid, macs) in enumerate(zip(config.token_grids, macs_per_exit(config), strict=True)):
        reached = f" {top1[index]} |" if top1 else ""
        rows.append(f"| {index + 1} | {grid}x{grid} | {told_macs(macs)} |{reached}")
    return "\n".join(rows)


def _budgets(content: "ModelContent") -> str:
    confidence = content.thresholds.confidence
    told = f"Thresholds are of the {confidence.name.replace('_', ' ')}"
    if confidence.temperatures:
        told += f", temperatures {', '.join(f'{value:g}' for value in confidence.temperatures)}"
    if content.report is None or not content.report.budgets:
        return f"## Budgets\n\n{told}. None was measured here."
    rows = [
        f"| {told_macs(point.budget_macs)} | {_thresholds(point.test.thresholds)} | {told_macs(point.test.macs)} | "
        f"{100 * point.test.accuracy:.2f} % |"
        for point in content.report.budgets
    ]
    head = "| budget | thresholds | mean MACs | test top-1 |\n|---|---|---|---|\n"
    kept = f"{len(content.thresholds.rows)} rows of thresholds cover budgets from the first to the last exit's cost."
    return "## Budgets\n\n" + head + "\n".join(rows) + f"\n\n{told}. {kept}"


def _promise(content: "ModelContent") -> str:
    promise = content.thresholds.guarantee
    if promise is None:
        return ""
    return (
        f"## Guarantee\n\nWith thresholds {_thresholds(promise.thresholds)} it loses at most "
        f"{100 * promise.tolerated_loss:g} points of accuracy against running all stages, {100 * promise.level:g} % "
        f"sure, at {told_macs(promise.macs)} mean MACs; tested on {promise.num_tested:,} calibration images."
    )


def _limits(content: "ModelContent") -> str:
    limits = [
        "For images like those it was trained on, of its own classes: to any other image it gives one of them too.",
        "A budget holds for the mean of many images like the calibration images, not for each image.",
        "Where images are harder than those, fewer leave early and the mean cost rises.",
    ]
    if content.report is None:
        limits.append("Nothing about it was measured here.")
    return "\n".join(f"- {limit}" for limit in limits)


def _loading(content: "ModelContent") -> str:
    return (
        "```python\nimport mlflow\n\n"
        'model = mlflow.pyfunc.load_model("models:/NAME/VERSION")\n'
        f'model.predict(images, params={{"budget_macs": {content.default_budget_macs:.4g}}})  '
        "# float32 from 0 to 1, (batch, channels, side, side)\n```"
    )


def _thresholds(thresholds: Thresholds) -> str:
    """All but the last, which takes what is left; a closed exit has none."""
    told = [("closed" if t == math.inf else "all" if t == -math.inf else f"{t:.4g}") for t in thresholds[:-1]]
    return ", ".join(told) or "none"
