"""Makes the variants reachable as `timm.create_model("dvt_t2t_vit_12")`; importing this file registers them."""

from dataclasses import replace
from typing import Any

from timm.models import generate_default_cfgs, register_model

from dvt.models.cascade import Cascade
from dvt.models.variants import VARIANTS

default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": {
            "num_classes": config.num_classes,
            "input_size": (config.in_chans, config.image_size, config.image_size),
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "classifier": tuple(f"stages.{index}.head" for index in range(config.num_exits)),
        }
        for name, config in VARIANTS.items()
    }
)


# timm's names for what may be changed, and the fields that they set.
_FIELDS = {
    "num_classes": "num_classes",
    "in_chans": "in_chans",
    "img_size": "image_size",
    "drop_path_rate": "drop_path",
}
_FROM_TIMM = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}  # handed over whether they matter or not


def _create(
    variant: str,
    pretrained: bool = False,
    **kwargs: Any,
) -> Cascade:
    if pretrained:
        raise ValueError(f"pretrained must be False for {variant}, got True; load weights from a checkpoint folder")
    unknown = sorted(kwargs.keys() - _FIELDS.keys() - _FROM_TIMM)
    if unknown:
        raise TypeError(f"{unknown[0]} must be an argument of {variant}, got another; choose from {', '.join(_FIELDS)}")
    changes = {_FIELDS[name]: value for name, value in kwargs.items() if name in _FIELDS and value is not None}
    return Cascade(replace(VARIANTS[variant], **changes))


@register_model
def dvt_t2t_vit_12(pretrained: bool = False, **kwargs: Any) -> Cascade:
    """DVT on T2T-ViT-12: 7x7, 10x10 and 14x14 tokens, 0.47 to 3.46 G multiply-adds."""
    return _create("dvt_t2t_vit_12", pretrained, **kwargs)


@register_model
def dvt_t2t_vit_14(pretrained: bool = False, **kwargs: Any) -> Cascade:
    """DVT on T2T-ViT-14: 7x7, 10x10 and 14x14 tokens, 1.20 to 9.26 G multiply-adds."""
    return _create("dvt_t2t_vit_14", pretrained, **kwargs)


@register_model
def dvt_deit_small(pretrained: bool = False, **kwargs: Any) -> Cascade:
    """DVT on DeiT-small: 7x7, 10x10 and 14x14 tokens, 1.14 to 8.80 G multiply-adds."""
    return _create("dvt_deit_small", pretrained, **kwargs)
