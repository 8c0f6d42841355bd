"""The cascades that have a name: one row each. Backbones and grids: Wang et al., NeurIPS 2021."""

from dataclasses import replace

from dvt.config import CascadeConfig

_T2T_VIT_12 = CascadeConfig(
    family="t2t_vit",
    embed_dim=256,
    depth=12,
    num_heads=4,
    mlp_ratio=2.0,
    qkv_bias=False,
    norm_eps=1e-5,
    drop_path=0.1,
)

VARIANTS: dict[str, CascadeConfig] = {
    "dvt_t2t_vit_12": _T2T_VIT_12,
    "dvt_t2t_vit_14": replace(_T2T_VIT_12, embed_dim=384, depth=14, num_heads=6, mlp_ratio=3.0),
    "dvt_deit_small": CascadeConfig(drop_path=0.1),
}
