"""The model: cascades of vision transformers, their variants and what they cost. Needs torch and timm only."""

from dvt.models import timm_registration as _timm_registration  # noqa: F401  registers the variants with timm
from dvt.models.cascade import Cascade
from dvt.models.cost import RelationNumbers, StageMacs, macs_per_exit, relation_numbers, stage_macs
from dvt.models.published import load_published, published_state_dict, published_variant
from dvt.models.resize import GridResize, axis_matrix
from dvt.models.size import count_parameters, largest_map_bytes, stage_map_bytes, stage_parameters
from dvt.models.stage import Stage, StageOutput
from dvt.models.variants import VARIANTS
from dvt.models.weights import WeightsError

__all__ = [
    "VARIANTS",
    "Cascade",
    "GridResize",
    "RelationNumbers",
    "Stage",
    "StageMacs",
    "StageOutput",
    "WeightsError",
    "axis_matrix",
    "count_parameters",
    "largest_map_bytes",
    "load_published",
    "macs_per_exit",
    "published_state_dict",
    "published_variant",
    "relation_numbers",
    "stage_macs",
    "stage_map_bytes",
    "stage_parameters",
]
