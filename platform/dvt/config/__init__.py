"""What a person asks for: frozen dataclasses, loaded from YAML and command lines with every problem told at once."""

from dvt.config.cascade import CascadeConfig, StageConfig, StageReuse
from dvt.config.cluster import ClusterConfig
from dvt.config.data import AugmentConfig, DataConfig
from dvt.config.load import (
    cascade_from_yaml,
    cascade_to_yaml,
    flatten,
    from_dict,
    load_recipe,
    recipe_from_dict,
    recipe_to_yaml,
    to_dict,
)
from dvt.config.problems import ConfigError, Problem, Rules
from dvt.config.recipe import (
    ExitsConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "CascadeConfig",
    "ClusterConfig",
    "ConfigError",
    "DataConfig",
    "ExitsConfig",
    "LossConfig",
    "OptimizerConfig",
    "Problem",
    "Recipe",
    "Rules",
    "RunConfig",
    "StageConfig",
    "StageReuse",
    "TrainConfig",
    "cascade_from_yaml",
    "cascade_to_yaml",
    "flatten",
    "from_dict",
    "load_recipe",
    "recipe_from_dict",
    "recipe_to_yaml",
    "to_dict",
]
