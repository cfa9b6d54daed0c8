"""Architectures of timm, most of them outside the shared corpus, at their smallest."""

from __future__ import annotations

from typing import Any

import timm
from benchmarks.zoo.cases import Built, Dice, Registry, image

SOURCE = f"timm {timm.__version__}"

# family: (model, image size, arguments, case options)
_MODELS: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "eva02": ("eva02_tiny_patch14_224", 28, {"depth": 2, "embed_dim": 48, "num_heads": 2}, {}),
    "relpos": ("vit_relpos_small_patch16_224", 32, {"depth": 2, "embed_dim": 48, "num_heads": 2}, {}),
    "relpos_mlp": (
        "vit_relpos_base_patch32_plus_rpn_256", 64, {"depth": 2, "embed_dim": 48, "num_heads": 2}, {},
    ),
    "swinv2": (
        "swinv2_tiny_window8_256", 64,
        {"depths": (2, 1), "embed_dim": 16, "num_heads": (2, 2), "window_size": 4}, {},
    ),
    "swinv2_cr": (
        "swinv2_cr_tiny_224", 64,
        {"depths": (2, 1), "embed_dim": 16, "num_heads": (2, 2), "window_size": 4}, {},
    ),
    "xcit": (
        "xcit_nano_12_p16_224", 32, {"depth": 2, "embed_dim": 32, "num_heads": 2, "cls_attn_layers": 1},
        {"minimum": 0, "notes": "attention between channels; either answer is right"},
    ),
    "crossvit": (
        "crossvit_9_240", 48,
        {"img_scale": (1.0, 1.0), "patch_size": (16, 12), "embed_dim": (16, 32),
         "depth": ((1, 1, 0),), "num_heads": (2, 2), "mlp_ratio": (2, 2, 1)}, {},
    ),
    "convit": (
        "convit_tiny", 32, {"depth": 2, "embed_dim": 24, "num_heads": 2, "local_up_to_layer": 1},
        {"minimum": 0, "notes": "gated blend of two softmaxes in the first layer"},
    ),
    "twins_pcpvt": (
        "twins_pcpvt_small", 64,
        {"embed_dims": [8, 16, 16, 16], "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1]}, {},
    ),
    "twins_svt": (
        "twins_svt_small", 64,
        {"embed_dims": [8, 16, 16, 16], "num_heads": [1, 2, 2, 2], "depths": [1, 1, 1, 1],
         "wss": [4, 4, 2, 2]}, {},
    ),
    "mvitv2": (
        "mvitv2_tiny", 64, {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2)}, {},
    ),
    "coatnet": (
        "coatnet_pico_rw_224", 64,
        {"embed_dim": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "stem_width": (8, 8)}, {},
    ),
    "maxvit": (
        "maxvit_rmlp_pico_rw_256", 64,
        {"embed_dim": (16, 32), "depths": (1, 1), "block_type": ("M", "M"), "stem_width": 8}, {},
    ),
    "davit": (
        "davit_tiny", 64, {"embed_dims": (16, 32), "num_heads": (2, 2), "depths": (1, 1)},
        {"minimum": 0, "notes": "window attention and attention between channels"},
    ),
    "efficientformer": ("efficientformer_l1", 64, {"depths": (1, 1, 1, 2), "embed_dims": (8, 16, 24, 32)}, {}),
    "efficientformer_v2": (
        "efficientformerv2_s0", 64, {"depths": (1, 1, 2, 2), "embed_dims": (8, 16, 24, 32)}, {"variants": 1},
    ),
    "efficientvit_mit": ("efficientvit_b0", 64, {}, {"variants": 1}),
    "efficientvit_msra": ("efficientvit_m0", 64, {"embed_dim": (16, 16, 32), "depth": (1, 1, 1), "num_heads": (2, 2, 2)}, {"variants": 1}),
    "tiny_vit": (
        "tiny_vit_5m_224", 64, {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1),
                                "num_heads": (2, 2, 2, 2), "window_sizes": (4, 4, 2, 2)}, {},
    ),
    "fastvit": ("fastvit_sa12", 64, {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64)}, {"variants": 1}),
    "nextvit": ("nextvit_small", 64, {"depths": (1, 1, 2, 1), "stem_chs": (8, 8, 8)}, {"variants": 1}),
    "vitamin": ("vitamin_small_224", 64, {"depth": 2, "num_heads": 2}, {"variants": 1}),
    "visformer": ("visformer_tiny", 64, {"embed_dim": 32, "depth": (1, 1, 1), "num_heads": 2}, {}),
    "nest": ("nest_tiny", 64, {"embed_dims": (16, 32, 32), "num_heads": (2, 2, 2), "depths": (1, 1, 1)}, {}),
    "volo": (
        "volo_d1_224", 64, {"layers": (1, 1), "embed_dims": (24, 48), "num_heads": (2, 4), "downsamples": (True, False), "outlook_attention": (True, False)},
        {"minimum": 0, "notes": "outlook attention has no query-key contraction"},
    ),
    "mobilenetv4_hybrid": ("mobilenetv4_hybrid_medium", 64, {}, {"variants": 1}),
    "botnet": ("botnet26t_256", 64, {"img_size": 64}, {"variants": 1}),
    "halonet": ("halonet26t", 128, {}, {"variants": 1, "minimum": 0, "notes": "blocked windows"}),
    "lambda_resnet": (
        "lambda_resnet26t", 64, {}, {"variants": 1, "minimum": 0, "maximum": 0},
    ),
    "shvit": ("shvit_s1", 64, {"embed_dim": (16, 32, 32), "depth": (1, 1, 1)}, {"variants": 1}),
    "resnet_clip": ("resnet50_clip.openai", 64, {"img_size": 64}, {"variants": 1}),
    "gcvit": ("gcvit_xxtiny", 64, {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (2, 2, 2, 2), "window_size": (2, 2, 2, 2)}, {}),
    "iformer": ("iformer_t", 64, {}, {"variants": 1}),
    "hieradet_sam2": ("sam2_hiera_tiny", 64, {}, {"variants": 1}),
    "mobilevit": ("mobilevit_xxs", 64, {}, {"variants": 1}),
    "mobilevitv2": ("mobilevitv2_050", 64, {}, {"variants": 1}),
    "vit_map_pool": (
        "vit_medium_patch16_gap_256", 32,
        {"depth": 1, "embed_dim": 32, "num_heads": 2, "global_pool": "map", "class_token": False, "fc_norm": False}, {},
    ),
    "vit_parallel": (
        "vit_small_patch16_36x1_224", 32, {"depth": 2, "embed_dim": 32, "num_heads": 2, "qk_norm": True, "init_values": 0.5}, {},
    ),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", 32, {"depth": 2, "embed_dim": 32, "num_heads": 2}, {}),
    "csatv2": ("csatv2", 512, {}, {"variants": 1, "minimum": 0}),
    "rdnet_never": ("rdnet_tiny", 64, {}, {"variants": 1}),
    "naflexvit": ("naflexvit_base_patch16_gap", 32, {"depth": 1, "embed_dim": 32, "num_heads": 2}, {"variants": 1}),
    "mixer_never": ("mixer_s32_224", 64, {"num_blocks": 1, "embed_dim": 16}, {"variants": 1}),
    "poolformer_never": ("poolformerv2_s12", 64, {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, {"variants": 1}),
    "caformer": ("caformer_s18", 64, {"depths": (1, 1, 1, 1), "dims": (8, 8, 32, 32)}, {"variants": 1}),
    "gcresnet_never": ("gcresnet33ts", 64, {}, {"variants": 1}),
    "lowformer": ("lowformer_b0", 64, {}, {"variants": 1}),
    "beit3_like": ("beit3_base_patch16_224", 32, {"depth": 1, "embed_dim": 32, "num_heads": 2}, {}),
}  # fmt: skip
_SIZED = ("img_size",)


def _build(model: str, size: int, arguments: dict[str, Any], dice: Dice) -> Built:
    import timm.layers

    timm.layers.set_fused_attn(dice.attn == "sdpa", experimental=False)
    attempts = [{"img_size": size}, {}] if "img_size" not in arguments else [{}]
    error: Exception | None = None
    for extra in attempts:
        try:
            module = timm.create_model(model, pretrained=False, num_classes=7, **extra, **arguments)
            return Built(module, image(dice, size, name="x"), arguments.get("num_heads"))
        except TypeError as problem:
            error = problem
    assert error is not None
    raise error


def register(registry: Registry) -> None:
    for family, (model, size, arguments, options) in _MODELS.items():

        def build(dice: Dice, m: str = model, s: int = size, a: Any = arguments) -> Built:
            return _build(m, s, a, dice)

        registry.add(f"timm_{family}", SOURCE, build, opsets=(), **options)
