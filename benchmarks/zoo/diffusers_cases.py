"""Denoisers of diffusers beyond those in the shared corpus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, spec, tensor
from diffusers.models.attention_processor import Attention, AttnProcessor

SOURCE = f"diffusers {diffusers.__version__}"


class _Call(torch.nn.Module):
    def __init__(self, model: torch.nn.Module, names: list[str], **fixed: Any) -> None:
        super().__init__()
        self.model, self.names, self.fixed = model, names, fixed

    def forward(self, *args: Any) -> Any:
        named = dict(zip(self.names, args, strict=True))
        return self.model(**named, return_dict=False, **self.fixed)[0]


def _plain_processors(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Attention) and "2_0" in type(module.processor).__name__:
            plain = type(module.processor).__name__.replace("2_0", "")
            if plain == "AttnProcessor":
                module.set_processor(AttnProcessor())


def _add(
    registry: Registry, family: str, cls: str, config: dict[str, Any],
    inputs: Callable[[Dice], Spec], fixed: dict[str, Any] | None = None, **options: Any,
) -> None:  # fmt: skip
    def build(dice: Dice) -> Built:
        model = getattr(diffusers, cls)(**config)
        if dice.attn == "eager":
            _plain_processors(model)
        described = inputs(dice)
        names = [entry["name"] for entry in described["inputs"]]
        return Built(_Call(model, names, **(fixed or {})), described)

    registry.add(f"diff_{family}", SOURCE, build, **options)


def _latents(*shape: int, name: str = "hidden_states", **more: tuple[str, list[Any], str]) -> Any:
    def make(dice: Dice) -> Spec:
        inputs = [tensor(name, "f", ["B", *shape], "normal")]
        inputs += [tensor(key, dtype, list(size), gen) for key, (dtype, size, gen) in more.items()]
        return spec(inputs, {"B": 3}, B=2)

    return make


def register(registry: Registry) -> None:
    time = ("f", ["B"], "const:5")
    steps = ("i64", ["B"], "const:5")
    heads: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8}
    _add(registry, "sd3", "SD3Transformer2DModel",
         {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, **heads,
          "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 16,
          "out_channels": 4, "pos_embed_max_size": 8, "qk_norm": "rms_norm"},
         _latents(4, 8, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"),
                  pooled_projections=("f", ["B", 16], "normal"), timestep=steps))  # fmt: skip
    _add(
        registry,
        "auraflow",
        "AuraFlowTransformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 1,
            "num_single_dit_layers": 1,
            **heads,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "out_channels": 4,
            "pos_embed_max_size": 16,
        },
        _latents(4, 8, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"), timestep=time),
    )
    _add(registry, "sana", "SanaTransformer2DModel",
         {"sample_size": 8, "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 1,
          **heads, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
          "cross_attention_dim": 16, "caption_channels": 12},
         _latents(4, 8, 8, encoder_hidden_states=("f", ["B", 5, 12], "normal"), timestep=steps),
         notes="linear self-attention, softmax cross-attention")  # fmt: skip
    _add(registry, "wan", "WanTransformer3DModel",
         {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12,
          "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
          "num_layers": 1, "cross_attn_norm": True, "rope_max_seq_len": 32},
         _latents(4, 2, 8, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"), timestep=steps),
         attn=("sdpa",))  # fmt: skip
    _add(registry, "cogvideox", "CogVideoXTransformer3DModel",
         {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
          "time_embed_dim": 8, "text_embed_dim": 16, "num_layers": 1, "sample_width": 8,
          "sample_height": 8, "sample_frames": 5, "patch_size": 2, "max_text_seq_length": 5,
          "temporal_compression_ratio": 4},
         _latents(2, 4, 8, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"), timestep=steps),
         attn=("sdpa",))  # fmt: skip
    _add(registry, "latte", "LatteTransformer3DModel",
         {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 1,
          **heads, "cross_attention_dim": 16, "caption_channels": 12, "video_length": 2},
         _latents(4, 2, 8, 8, encoder_hidden_states=("f", ["B", 5, 12], "normal"),
                  timestep=steps))  # fmt: skip
    _add(registry, "hunyuan_dit", "HunyuanDiT2DModel",
         {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, **heads,
          "hidden_size": 16, "cross_attention_dim": 8, "cross_attention_dim_t5": 8,
          "pooled_projection_dim": 4, "text_len": 4, "text_len_t5": 4, "activation_fn": "gelu-approximate"},
         _latents(4, 8, 8, encoder_hidden_states=("f", ["B", 4, 8], "normal"),
                  text_embedding_mask=("f", ["B", 4], "ones"),
                  encoder_hidden_states_t5=("f", ["B", 4, 8], "normal"),
                  text_embedding_mask_t5=("f", ["B", 4], "ones"),
                  image_meta_size=("f", ["B", 6], "const:8"), style=("i64", ["B"], "zeros"),
                  timestep=time), dynamic=False)  # fmt: skip
    _add(registry, "prior", "PriorTransformer",
         {**heads, "num_layers": 2, "embedding_dim": 12, "num_embeddings": 5,
          "additional_embeddings": 4},
         _latents(12, timestep=steps, proj_embedding=("f", ["B", 12], "normal"),
                  encoder_hidden_states=("f", ["B", 5, 12], "normal")))  # fmt: skip
    _add(registry, "temporal", "TransformerTemporalModel",
         {**heads, "in_channels": 32, "num_layers": 1, "norm_num_groups": 8},
         lambda d: spec([tensor("hidden_states", "f", [4, 32, 4, 4], "normal")], {}, B=2),
         {"num_frames": 2}, dynamic=False)  # fmt: skip
    blocks = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1,
              "sample_size": 8}  # fmt: skip
    _add(registry, "ddpm_unet", "UNet2DModel",
         {**blocks, "in_channels": 3, "out_channels": 3, "attention_head_dim": 8,
          "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
          "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
         _latents(3, 8, 8, name="sample", timestep=steps))  # fmt: skip
    _add(registry, "svd_unet", "UNetSpatioTemporalConditionModel",
         {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 8,
          "in_channels": 8, "out_channels": 4, "num_attention_heads": (2, 2),
          "cross_attention_dim": 16, "addition_time_embed_dim": 8,
          "projection_class_embeddings_input_dim": 24, "num_frames": 2,
          "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
          "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")},
         _latents(2, 8, 8, 8, name="sample", timestep=steps,
                  encoder_hidden_states=("f", ["B", 1, 16], "normal"),
                  added_time_ids=("f", ["B", 3], "const:2")), variants=1)  # fmt: skip
    _add(registry, "unet3d", "UNet3DConditionModel",
         {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1,
          "sample_size": 8, "cross_attention_dim": 16, "attention_head_dim": 8,
          "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
          "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")},
         _latents(4, 2, 8, 8, name="sample", timestep=steps,
                  encoder_hidden_states=("f", ["B", 5, 16], "normal")), variants=1)  # fmt: skip
    _add(registry, "motion_unet", "UNetMotionModel",
         {**blocks, "cross_attention_dim": 16, "num_attention_heads": 2,
          "motion_norm_num_groups": 8, "motion_num_attention_heads": 2,
          "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
          "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion")},
         _latents(4, 2, 8, 8, name="sample", timestep=steps,
                  encoder_hidden_states=("f", ["B", 5, 16], "normal")), variants=1)  # fmt: skip
    _add(registry, "stable_audio", "StableAudioDiTModel",
         {"sample_size": 8, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8,
          "num_attention_heads": 2, "num_key_value_attention_heads": 1, "out_channels": 4,
          "cross_attention_dim": 16, "time_proj_dim": 16, "global_states_input_dim": 16,
          "cross_attention_input_dim": 16},
         _latents(4, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"),
                  global_hidden_states=("f", ["B", 1, 16], "normal"), timestep=steps),
         attn=("sdpa",))  # fmt: skip
    _add(registry, "cogview3", "CogView3PlusTransformer2DModel",
         {"patch_size": 2, "in_channels": 4, "num_layers": 1, **heads, "out_channels": 4,
          "text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 2, "pos_embed_max_size": 8,
          "sample_size": 8},
         _latents(4, 8, 8, encoder_hidden_states=("f", ["B", 5, 8], "normal"),
                  timestep=steps, original_size=("f", ["B", 2], "const:8"),
                  target_size=("f", ["B", 2], "const:8"),
                  crop_coords=("f", ["B", 2], "zeros")), attn=("sdpa",))  # fmt: skip
    _add(registry, "ltx_video", "LTXVideoTransformer3DModel",
         {"in_channels": 8, "out_channels": 8, **heads, "cross_attention_dim": 16,
          "num_layers": 1, "caption_channels": 16},
         _latents(32, 8, encoder_hidden_states=("f", ["B", 5, 16], "normal"), timestep=steps,
                  encoder_attention_mask=("f", ["B", 5], "rightpad")),
         {"num_frames": 2, "height": 4, "width": 4}, attn=("sdpa",))  # fmt: skip
    _add(registry, "vae_temporal", "AutoencoderKLTemporalDecoder",
         {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2,
          "layers_per_block": 1, "latent_channels": 4},
         lambda d: spec([tensor("sample", "f", [2, 3, 16, 16], "normal")], {}, B=2),
         {"num_frames": 2}, dynamic=False, variants=1)  # fmt: skip
    _add(registry, "asymmetric_vae", "AsymmetricAutoencoderKL",
         {"down_block_out_channels": (16, 16), "layers_per_down_block": 1,
          "up_block_out_channels": (16, 16), "layers_per_up_block": 1, "norm_num_groups": 8,
          "down_block_types": ("DownEncoderBlock2D",) * 2,
          "up_block_types": ("UpDecoderBlock2D",) * 2},
         _latents(3, 16, 16, name="sample"), variants=1)  # fmt: skip
