"""`open_data`: from what a recipe says to three sets of images, with every complaint about it made before training."""

from dataclasses import replace
from pathlib import Path

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.data.digits import open_digits
from dvt.data.folder import open_folder
from dvt.data.order import choose_order
from dvt.data.sets import DataSets


def open_data(config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open the images of a recipe, without reading more than their names.

    Args:
        config: Where they come from and how they are split.
        cascade: The model that they are for: its image size, channels and classes must fit.

    Raises:
        ConfigError: If the configuration does not fit the images or names no folder.
        DataError: If the folder does not hold images as it should.
    """
    if config.source == "embedded":
        return replace(open_digits(config, cascade), train_order=choose_order(config, None))
    if config.root is None:
        rule = "must name an image folder for source folder, got null; add --data.root FOLDER"
        raise ConfigError([Problem("data.root", rule)])
    folder = open_folder(Path(config.root).expanduser(), config, cascade)
    return replace(folder, train_order=choose_order(config, None))
