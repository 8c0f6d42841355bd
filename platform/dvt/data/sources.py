"""`open_data`: from what a recipe says to three sets of images, with every complaint about it made before training."""

from dataclasses import replace

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.data.bucket import typed_address
from dvt.data.cifar import open_cifar
from dvt.data.cifar_files import LAYOUTS
from dvt.data.digits import open_digits
from dvt.data.folder import open_folder
from dvt.data.order import choose_order
from dvt.data.sets import DataSets
from dvt.data.shard_source import open_shards


def open_data(config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open the images of a recipe, without reading more than their names; CIFAR's are read, as they are held in memory.

    Args:
        config: Where they come from and how they are split.
        cascade: The model that they are for: its image size, channels and classes must fit.

    Raises:
        ConfigError: If the configuration does not fit the images or names no folder.
        DataError: If the folder does not hold images as it should, or cannot be read.
    """
    return replace(_open(config, cascade), engine=config.engine)


def _open(config: DataConfig, cascade: CascadeConfig) -> DataSets:
    if config.source == "embedded":
        return replace(open_digits(config, cascade), train_order=choose_order(config, None))
    if config.root is None:
        rule = f"must name {config.root_told}, got null; add --data.root FOLDER"
        raise ConfigError([Problem("data.root", rule)])
    root = typed_address(config.root)
    if config.source in LAYOUTS:
        return open_cifar(LAYOUTS[config.source], root, config, cascade)
    return open_folder(root, config, cascade) if config.source == "folder" else open_shards(root, config, cascade)
