"""Valid cascades of every kind, for properties that hold for all of them."""

from hypothesis import strategies as st

from dvt.config import CascadeConfig, StageConfig


@st.composite
def cascade_configs(draw: st.DrawFn) -> CascadeConfig:
    """Any valid `CascadeConfig`; not meant to be built, which some would take hours for."""
    family = draw(st.sampled_from(["vit", "t2t_vit"]))
    image_size = draw(st.integers(4, 512))
    finest = image_size // 4 if family == "t2t_vit" else image_size
    grids = sorted(draw(st.sets(st.integers(1, finest), min_size=1, max_size=5)))
    depth = draw(st.integers(1, 24))
    depths = st.one_of(st.just("all"), st.integers(0, depth))
    reuse = dict.fromkeys(("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth"), depths)
    none = {name: st.sampled_from(["all", 0]) for name in reuse}
    stages = tuple(
        draw(st.builds(StageConfig, token_grid=st.just(grid), **(reuse if index else none)))
        for index, grid in enumerate(grids)
    )
    num_heads = draw(st.integers(1, 16))
    positive = st.floats(1e-12, 1e3)
    options = {
        "layer_scale": st.one_of(st.none(), positive),
        "num_registers": st.integers(0, 16),
        "qk_norm": st.booleans(),
        "global_pool": st.sampled_from(["token", "avg"]),
        "class_pos_embed": st.booleans(),
    }
    return CascadeConfig(
        image_size=image_size,
        in_chans=draw(st.sampled_from([1, 3])),
        num_classes=draw(st.integers(1, 10**6)),
        family=family,
        embed_dim=num_heads * 2 * draw(st.integers(1, 64)),
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=draw(positive),
        qkv_bias=draw(st.booleans()),
        norm_eps=draw(positive),
        drop_path=draw(st.floats(0, 0.99)),
        feature_reuse_dim=draw(st.integers(1, 256)),
        feature_reuse_hidden_dim=draw(st.integers(1, 256)),
        relation_reuse_ratio=draw(positive),
        stages=stages,
        **({name: draw(values) for name, values in options.items()} if family == "vit" else {}),
    )
