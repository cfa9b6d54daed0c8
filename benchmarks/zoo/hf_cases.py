"""Architectures of transformers beyond the families that are already in the shared corpus."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, image, spec, tensor, tokens

SOURCE = f"transformers {transformers.__version__}"


def _small(dice: Dice) -> dict[str, Any]:
    """Small values for every attribute that configurations use for size."""
    hidden, heads, layers = dice.hidden, dice.heads, dice.layers
    groups: list[tuple[int, str]] = [
        (hidden, "hidden_size d_model n_embd embed_dim dim word_embed_proj_dim embedding_size "
         "emb_dim projection_dim encoder_hidden_dim conv_dim"),
        (layers, "num_hidden_layers encoder_layers decoder_layers n_layer num_layers n_layers "
         "num_decoder_layers num_encoder_layers layers"),
        (heads, "num_attention_heads encoder_attention_heads decoder_attention_heads n_head "
         "n_heads num_heads attention_heads"),
        (dice.kv_heads, "num_key_value_heads num_kv_heads"),
        (2 * hidden, "intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff n_inner "
         "hidden_dim ffn_hidden_size block_ff_dim"),
        (dice.depth, "head_dim d_kv attention_head_size"),
        (99, "vocab_size"),
        (64, "max_position_embeddings n_positions max_sequence_length max_target_positions "
         "n_ctx seq_length max_seq_len"),
        (32, "image_size img_size"),
        (8, "patch_size"),
    ]  # fmt: skip
    values = {name: value for value, names in groups for name in names.split()}
    values |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "type_vocab_size": 2}
    values |= {"decoder_start_token_id": 2, "use_cache": False}
    return values


def small_config(name: str, dice: Dice, **overrides: Any) -> Any:
    """A configuration of class `name`: small sizes where its default has an int of that name."""
    cls = getattr(transformers, name)
    default = cls()
    values = {
        key: value
        for key, value in _small(dice).items()
        if key in ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id")
        or (isinstance(getattr(default, key, None), int) and not isinstance(value, bool))
    }
    aliases = getattr(cls, "attribute_map", {})
    values = {aliases.get(k, k): v for k, v in values.items() if aliases.get(k, k) not in overrides}
    return cls(**{**values, **overrides})


class Call(torch.nn.Module):
    """Positional inputs in, floating outputs out, whatever the model's own signature."""

    def __init__(self, model: torch.nn.Module, names: list[str], **fixed: Any) -> None:
        super().__init__()
        self.model, self.names, self.fixed = model, names, fixed

    def forward(self, *args: Any) -> Any:
        result = self.model(**dict(zip(self.names, args, strict=True)), **self.fixed)
        if isinstance(result, torch.Tensor):
            return result
        values = result if isinstance(result, tuple) else result.to_tuple()
        kept = tuple(v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point())
        return kept[0] if len(kept) == 1 else kept[:3]


def instantiate(name: Any, config: Any, dice: Dice, inputs: Spec, **fixed: Any) -> Built:
    config._attn_implementation = dice.attn
    cls = getattr(transformers, name) if isinstance(name, str) else name
    try:
        model = cls(config)
    except ValueError as error:
        if dice.attn == "eager" or "scaled_dot_product" not in str(error):
            raise
        config._attn_implementation = "eager"
        model = cls(config)
    accepted = inspect.signature(model.forward).parameters
    if "use_cache" in accepted:
        fixed.setdefault("use_cache", False)
    if "return_dict" in accepted or "kwargs" in accepted:
        fixed.setdefault("return_dict", True)
    names = [entry["name"] for entry in inputs["inputs"]]
    text = getattr(config, "text_config", None) or config
    return Built(
        Call(model, names, **fixed),
        inputs,
        getattr(text, "num_attention_heads", None),
        getattr(text, "hidden_size", None),
    )


def encoder_decoder(dice: Dice) -> Spec:
    inputs = [
        tensor("input_ids", "i64", ["B", "S"], "randint:3:99"),
        tensor("attention_mask", "i64", ["B", "S"], "rightpad"),
        tensor("decoder_input_ids", "i64", ["B", "T"], "randint:3:99"),
    ]
    return spec(inputs, {"B": 3, "S": 14, "T": 5}, B=2, S=dice.length, T=7)


Maker = Callable[[Dice], Spec]


def _add(
    registry: Registry, family: str, model: str, config: str, inputs: Maker,
    overrides: dict[str, Any] | Callable[[Dice], dict[str, Any]] | None = None,
    fixed: dict[str, Any] | None = None, **options: Any,
) -> None:  # fmt: skip
    def build(dice: Dice) -> Built:
        extra = overrides(dice) if callable(overrides) else dict(overrides or {})
        chosen = small_config(config, dice, **extra)
        return instantiate(model, chosen, dice, inputs(dice), **(fixed or {}))

    registry.add(f"hf_{family}", SOURCE, build, **options)


def register(registry: Registry) -> None:
    _text(registry)
    _decoders(registry)
    _encoder_decoders(registry)
    _vision(registry)
    _audio_and_series(registry)
    _multimodal(registry)


def _text(registry: Registry) -> None:
    plain = {
        "albert": ("Albert", {}), "rembert": ("RemBert", {"input_embedding_size": 16}),
        "megatron_bert": ("MegatronBert", {}), "mpnet": ("MPNet", {}), "ernie": ("Ernie", {}),
        "roformer": ("RoFormer", {}), "splinter": ("Splinter", {}),
        "prelayernorm": ("RobertaPreLayerNorm", {}), "xmod": ("Xmod", {"languages": ["en_XX"], "default_language": "en_XX"}),
        "xlm_roberta_xl": ("XLMRobertaXL", {}), "data2vec_text": ("Data2VecText", {}),
        "nomic_bert": ("NomicBert", {}), "nystromformer": ("Nystromformer", {"num_landmarks": 4, "segment_means_seq_len": 8}),
        "roc_bert": ("RoCBert", {"enable_pronunciation": False, "enable_shape": False}),
        "luke": ("Luke", {"entity_vocab_size": 9, "entity_emb_size": 16}), "jina_v3": ("JinaEmbeddingsV3", {}),
        "gte": ("Gte", {}), "ultrabert": ("UltraBert", {}),
        "bert_generation": ("BertGenerationEncoder", {}),
    }  # fmt: skip
    for family, (prefix, overrides) in plain.items():
        config = "BertGenerationConfig" if family == "bert_generation" else f"{prefix}Config"
        model = prefix if family == "bert_generation" else f"{prefix}Model"
        exotic = {"minimum": 0} if family == "nystromformer" else {}
        _add(registry, family, model, config, tokens, overrides, **exotic)
    _add(registry, "mobilebert", "MobileBertModel", "MobileBertConfig", tokens,
         lambda d: {"hidden_size": 32, "intra_bottleneck_size": d.hidden, "embedding_size": 16,
                    "true_hidden_size": d.hidden})  # fmt: skip
    _add(registry, "convbert", "ConvBertModel", "ConvBertConfig", tokens,
         lambda d: {"embedding_size": d.hidden, "head_ratio": 2, "num_attention_heads": 4,
                    "hidden_size": 48, "conv_kernel_size": 3})  # fmt: skip
    _add(registry, "flaubert", "FlaubertModel", "FlaubertConfig", tokens)
    _add(registry, "xlm", "XLMModel", "XLMConfig", tokens)
    _add(registry, "fnet", "FNetModel", "FNetConfig", lambda d: tokens(d, mask=None), variants=1)
    _add(registry, "canine", "CanineModel", "CanineConfig",
         lambda d: spec([tensor("input_ids", "i64", ["B", 64], "randint:3:9000"),
                         tensor("attention_mask", "i64", ["B", 64], "rightpad")], {"B": 3}, B=2),
         {"local_transformer_stride": 16, "num_hash_buckets": 32, "max_position_embeddings": 64},
         variants=1)  # fmt: skip

    def boxes(dice: Dice) -> Spec:
        described = tokens(dice)
        described["inputs"].append(tensor("bbox", "i64", ["B", "S", 4], "boxes:60"))
        return described

    for family, prefix in (("layoutlm", "LayoutLM"), ("lilt", "Lilt")):
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", boxes,
             {"max_2d_position_embeddings": 64})  # fmt: skip
    _add(registry, "perceiver", "PerceiverModel", "PerceiverConfig",
         lambda d: spec([tensor("inputs", "f", ["B", "S", 24], "normal")], {"B": 3, "S": 7},
                        B=2, S=11),
         {"num_latents": 6, "d_latents": 16, "d_model": 24, "num_blocks": 1,
          "num_self_attends_per_block": 2, "num_self_attention_heads": 2,
          "num_cross_attention_heads": 2})  # fmt: skip
    _add(registry, "yoso", "YosoModel", "YosoConfig", tokens, {"use_expectation": True}, variants=1)


def _decoders(registry: Registry) -> None:
    def ids(dice: Dice) -> Spec:
        return tokens(dice, mask=None)

    def masked(dice: Dice) -> Spec:
        return tokens(dice, mask="leftpad")

    causal = {
        "gpt_neo": ("GPTNeo", lambda d: {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4}),
        "codegen": ("CodeGen", lambda d: {"n_head": 4, "n_embd": 64, "rotary_dim": 8}),
        "gptj": ("GPTJ", lambda d: {"rotary_dim": 4}),
        "falcon_new": ("Falcon", lambda d: {"new_decoder_architecture": True, "num_kv_heads": 1 if d.heads == 2 else 2}),
        "falcon_alibi": ("Falcon", lambda d: {"alibi": True, "multi_query": False}),
        "mpt": ("Mpt", lambda d: {"n_heads": 4, "d_model": 32, "max_seq_len": 64}), "opt": ("OPT", {}), "ctrl": ("CTRL", {"dff": 64}),
        "xglm": ("XGLM", {"num_layers": 2}), "cohere": ("Cohere", {}), "cohere2": ("Cohere2", {"sliding_window": 4}),
        "stablelm": ("StableLm", {"use_qkv_bias": True, "qk_layernorm": True}),
        "starcoder2": ("Starcoder2", {"sliding_window": 5}), "phi": ("Phi", {"qk_layernorm": True}),
        "gemma2": ("Gemma2", {"sliding_window": 4, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 5.0}),
        "granite": ("Granite", {"attention_multiplier": 0.3}), "olmo3": ("Olmo3", {"sliding_window": 4}),
        "glm": ("Glm", {}), "glm4": ("Glm4", {}), "exaone4": ("Exaone4", {"sliding_window": 4}),
        "smollm3": ("SmolLM3", {}), "helium": ("Helium", {}), "ernie4_5": ("Ernie4_5", {}),
        "hunyuan": ("HunYuanDenseV1", {}), "arcee": ("Arcee", {}), "apertus": ("Apertus", {}),
        "bitnet": ("BitNet", {}), "diffllama": ("DiffLlama", {}), "doge": ("Doge", {}),
        "seed_oss": ("SeedOss", {}), "nanochat": ("NanoChat", {}), "vaultgemma": ("VaultGemma", {"sliding_window": 4}),
        "minicpm3": ("MiniCPM3", {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}),
        "deepseek_v2": ("DeepseekV2", {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12, "first_k_dense_replace": 9}),
        "modernbert_decoder": ("ModernBertDecoder", {}), "youtu": ("Youtu", {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 12}),
        "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}),
        "recurrent_gemma": ("RecurrentGemma", {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 6}),
        "internlm3": ("Internlm3", {}), "ministral": ("Ministral", {"sliding_window": 4}), "cpmant": ("CpmAnt", {}),
    }  # fmt: skip
    for family, (prefix, overrides) in causal.items():
        inputs = ids if family in ("ctrl", "gpt_neo", "recurrent_gemma", "diffllama") else masked
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", inputs, overrides)
    _add(registry, "gpt_oss", "GptOssModel", "GptOssConfig", ids,
         {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 4,
          "num_hidden_layers": 2}, expected=2)  # fmt: skip
    _add(registry, "llama4_text", "Llama4TextModel", "Llama4TextConfig", ids,
         {"num_local_experts": 2, "num_experts_per_tok": 1, "moe_layers": [],
          "intermediate_size_mlp": 64, "attention_chunk_size": 4})  # fmt: skip
    _add(registry, "imagegpt", "ImageGPTModel", "ImageGPTConfig", ids)
    _add(registry, "trocr", "TrOCRForCausalLM", "TrOCRConfig", masked, variants=1)


def _encoder_decoders(registry: Registry) -> None:
    table = {
        "pegasus": ("Pegasus", {}), "m2m100": ("M2M100", {}), "blenderbot": ("Blenderbot", {}),
        "blenderbot_small": ("BlenderbotSmall", {}), "mvp": ("Mvp", {}), "pegasus_x": ("PegasusX", {"block_size": 4, "num_global_tokens": 2}),
        "prophetnet": ("ProphetNet", {"ngram": 2, "num_buckets": 8, "relative_max_distance": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "hidden_size": 32}),
        "longt5_tglobal": ("LongT5", {"encoder_attention_type": "transient-global", "local_radius": 3, "global_block_size": 4}),
        "longt5_local": ("LongT5", {"local_radius": 3}),
        "switch": ("SwitchTransformers", {"num_experts": 2, "num_sparse_encoder_layers": 0, "num_sparse_decoder_layers": 0}),
        "bigbird_pegasus": ("BigBirdPegasus", {"attention_type": "original_full"}),
    }  # fmt: skip
    for family, (prefix, overrides) in table.items():
        exotic = {"minimum": 0} if family in ("longt5_tglobal", "longt5_local", "pegasus_x") else {}
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", encoder_decoder, overrides,
             **exotic)  # fmt: skip


def _vision(registry: Registry) -> None:
    def pixels(dice: Dice) -> Spec:
        return image(dice, 32)

    simple: dict[str, tuple[str, dict[str, Any]]] = {
        "dinov2": ("Dinov2", {}), "dinov2_registers": ("Dinov2WithRegisters", {}),
        "dinov3_vit": ("DINOv3ViT", {}), "vit_mae": ("ViTMAE", {"mask_ratio": 0.0}),
        "ijepa": ("IJepa", {}), "siglip_vision": ("SiglipVision", {}), "aimv2_vision": ("Aimv2Vision", {}),
        "pixio": ("Pixio", {}), "mlcd_vision": ("MLCDVision", {}),
        "swinv2": ("Swinv2", {"depths": [2, 1], "num_heads": [2, 4], "embed_dim": 16, "window_size": 4, "patch_size": 4}),
        "swin2sr": ("Swin2SR", {"depths": [2, 1], "num_heads": [2, 2], "embed_dim": 16, "window_size": 4, "patch_size": 1, "image_size": 16}),
        "cvt": ("Cvt", {"embed_dim": [8, 16], "num_heads": [1, 2], "depth": [1, 2], "patch_sizes": [7, 3], "patch_stride": [4, 2], "patch_padding": [2, 1], "mlp_ratio": [2.0, 2.0], "attention_drop_rate": [0.0, 0.0], "drop_rate": [0.0, 0.0], "drop_path_rate": [0.0, 0.0], "qkv_bias": [True, True], "cls_token": [False, True], "qkv_projection_method": ["dw_bn", "dw_bn"], "kernel_qkv": [3, 3], "padding_kv": [1, 1], "stride_kv": [2, 2], "padding_q": [1, 1], "stride_q": [1, 1]}),
        "hiera": ("Hiera", {"embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "image_size": [32, 32], "patch_size": [7, 7], "query_stride": [2, 2], "masked_unit_size": [2, 2], "num_query_pool": 1}),
        "levit": ("Levit", {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8], "image_size": 64, "down_ops": [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 4, 4, 2, 2]]}),
        "mobilevitv2": ("MobileViTV2", {"image_size": 64}), "focalnet": ("FocalNet", {"depths": [1, 1], "embed_dim": 8, "focal_levels": [1, 1], "focal_windows": [3, 3], "patch_size": 4}),
        "poolformer": ("PoolFormer", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
        "vitpose_backbone": ("VitPoseBackbone", {"image_size": [32, 32], "patch_size": [8, 8]}),
        "mgp_str": ("MgpstrForSceneTextRecognition", {"image_size": [32, 32], "patch_size": 8, "max_token_length": 5, "num_character_labels": 9, "num_bpe_labels": 9, "num_wordpiece_labels": 9}),
        "seggpt_attn": ("SegGpt", {}), "vjepa2": ("VJEPA2", {}), "sapiens2": ("Sapiens2", {}), "radio": ("Radio", {}),
        "sam_vision": ("SamVision", {"window_size": 2, "output_channels": 16, "global_attn_indexes": [1], "num_hidden_layers": 2}),
        "sam_hq_vision": ("SamHQVision", {"window_size": 2, "output_channels": 16, "global_attn_indexes": [1], "num_hidden_layers": 2}),
    }  # fmt: skip
    negatives = ("mobilevitv2", "focalnet", "poolformer")
    for family, (prefix, overrides) in simple.items():
        if family in ("seggpt_attn", "vjepa2"):
            continue
        model = {"vitpose_backbone": "VitPoseBackbone", "mgp_str": prefix}.get(
            family, f"{prefix}Model"
        )
        config = {"mgp_str": "MgpstrConfig"}.get(family, f"{prefix}Config")
        size = 64 if family in ("levit", "mobilevitv2") else 16 if family == "swin2sr" else 32
        options: dict[str, Any] = {"variants": 1} if family in negatives else {}
        _add(registry, family, model, config, lambda d, s=size: image(d, s), overrides, **options)

    def video(dice: Dice) -> Spec:
        shape: list[int | str] = ["B", 4, 3, 16, 16]
        return spec([tensor("pixel_values", "f", shape, "normal")], {"B": 3}, B=2)

    _add(registry, "vivit", "VivitModel", "VivitConfig", video,
         {"num_frames": 4, "image_size": 16, "tubelet_size": [2, 8, 8]})  # fmt: skip
    _add(registry, "vjepa2", "VJEPA2Model", "VJEPA2Config",
         lambda d: spec([tensor("pixel_values_videos", "f", ["B", 4, 3, 16, 16], "normal")],
                        {"B": 3}, B=2),
         {"crop_size": 16, "frames_per_clip": 4, "tubelet_size": 2, "hidden_size": 48,
          "num_attention_heads": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2,
          "pred_num_hidden_layers": 1, "patch_size": 8}, {"skip_predictor": True})  # fmt: skip

    def detector(dice: Dice) -> dict[str, Any]:
        stem = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
            out_features=["stage2"],
        )  # fmt: skip
        return {"backbone_config": stem, "use_timm_backbone": False, "backbone": None,
                "use_pretrained_backbone": False, "num_queries": 5, "backbone_kwargs": None}  # fmt: skip

    for family, prefix in (("detr", "Detr"), ("conditional_detr", "ConditionalDetr"),
                           ("table_transformer", "TableTransformer"), ("dab_detr", "DabDetr")):  # fmt: skip
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", pixels, detector,
             dynamic=False)  # fmt: skip


def _audio_and_series(registry: Registry) -> None:
    def wave(dice: Dice) -> Spec:
        return spec([tensor("input_values", "f", ["B", "T"], "normal")], {"B": 3, "T": 500},
                    B=2, T=400)  # fmt: skip

    convolution = {
        "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "conv_bias": False,
    }  # fmt: skip
    for family, prefix, extra in (
        ("wavlm", "WavLM", {"num_buckets": 16, "max_bucket_distance": 40}),
        ("unispeech", "UniSpeech", {}), ("unispeech_sat", "UniSpeechSat", {}),
        ("w2v2_conformer_rel", "Wav2Vec2Conformer", {"position_embeddings_type": "relative", "conv_depthwise_kernel_size": 3}),
        ("w2v2_conformer_rotary", "Wav2Vec2Conformer", {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 3}),
        ("data2vec_audio", "Data2VecAudio", {"conv_pos_kernel_size": 3}),
    ):  # fmt: skip
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", wave, {**convolution, **extra})

    def features(width: int, name: str = "input_features") -> Maker:
        def make(dice: Dice) -> Spec:
            return spec([tensor(name, "f", ["B", "T", width], "normal")], {"B": 3, "T": 40},
                        B=2, T=32)  # fmt: skip

        return make

    _add(registry, "w2v2_bert", "Wav2Vec2BertModel", "Wav2Vec2BertConfig", features(20),
         {"feature_projection_input_dim": 20, "conv_depthwise_kernel_size": 3,
          "left_max_position_embeddings": 6, "right_max_position_embeddings": 2})  # fmt: skip
    _add(registry, "fastspeech2_conformer", "FastSpeech2ConformerModel",
         "FastSpeech2ConformerConfig", lambda d: tokens(d, 70, None),
         {"encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
          "hidden_size": 32, "encoder_linear_units": 32, "decoder_linear_units": 32,
          "speech_decoder_postnet_units": 16, "duration_predictor_channels": 16,
          "pitch_predictor_channels": 16, "energy_predictor_channels": 16,
          "speech_decoder_postnet_layers": 2, "num_mel_bins": 8}, variants=1)  # fmt: skip
    _add(registry, "parakeet", "ParakeetEncoder", "ParakeetEncoderConfig", features(16),
         {"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 3})  # fmt: skip
    _add(registry, "moonshine", "MoonshineModel", "MoonshineConfig",
         lambda d: spec([tensor("input_values", "f", ["B", 3000], "normal"),
                         tensor("decoder_input_ids", "i64", ["B", "T"], "randint:3:99")],
                        {"B": 3, "T": 5}, B=2, T=7),
         {"encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1,
          "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
          "hidden_size": 32})  # fmt: skip
    _add(registry, "speech_to_text", "Speech2TextModel", "Speech2TextConfig",
         lambda d: spec([tensor("input_features", "f", ["B", "T", 16], "normal"),
                         tensor("decoder_input_ids", "i64", ["B", 6], "randint:3:99")],
                        {"B": 3, "T": 40}, B=2, T=32),
         {"input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64})  # fmt: skip
    _add(registry, "patchtst", "PatchTSTModel", "PatchTSTConfig",
         lambda d: spec([tensor("past_values", "f", ["B", 32, 3], "normal")], {"B": 3}, B=2),
         {"context_length": 32, "num_input_channels": 3, "patch_length": 4, "patch_stride": 4,
          "channel_attention": True})  # fmt: skip
    _add(registry, "clap_audio", "ClapAudioModel", "ClapAudioConfig",
         lambda d: spec([tensor("input_features", "f", ["B", 1, 64, 16], "normal")], {"B": 3}, B=2),
         {"spec_size": 64, "num_mel_bins": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
          "patch_embeds_hidden_size": 16, "hidden_size": 32, "window_size": 4, "patch_size": 4,
          "patch_stride": [4, 4], "enable_fusion": False}, variants=1)  # fmt: skip
    _add(registry, "decision_transformer", "DecisionTransformerModel",
         "DecisionTransformerConfig",
         lambda d: spec([tensor("states", "f", ["B", "S", 5], "normal"),
                         tensor("actions", "f", ["B", "S", 3], "normal"),
                         tensor("rewards", "f", ["B", "S", 1], "normal"),
                         tensor("returns_to_go", "f", ["B", "S", 1], "normal"),
                         tensor("timesteps", "i64", ["B", "S"], "randint:0:9"),
                         tensor("attention_mask", "i64", ["B", "S"], "leftpad")],
                        {"B": 3, "S": 6}, B=2, S=5),
         {"state_dim": 5, "act_dim": 3, "max_ep_len": 16, "n_positions": 64})  # fmt: skip


def _multimodal(registry: Registry) -> None:
    def towers(dice: Dice) -> Spec:
        described = tokens(dice, mask="rightpad")
        described["inputs"].insert(1, tensor("pixel_values", "f", ["B", 3, 32, 32], "normal"))
        return described

    def nested(dice: Dice) -> dict[str, Any]:
        small = _small(dice)
        text = {k: small[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                      "intermediate_size", "vocab_size",
                                      "max_position_embeddings")}  # fmt: skip
        view = {k: small[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads",
                                      "intermediate_size", "image_size", "patch_size")}  # fmt: skip
        text |= {"projection_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return {"text_config": text, "vision_config": {**view, "projection_dim": 16},
                "projection_dim": 16}  # fmt: skip

    for family, prefix in (("siglip", "Siglip"), ("chinese_clip", "ChineseCLIP"),
                           ("altclip", "AltCLIP"), ("aimv2", "Aimv2"), ("metaclip2", "MetaClip2"),
                           ("owlv2", "Owlv2")):  # fmt: skip
        _add(registry, family, f"{prefix}Model", f"{prefix}Config", towers, nested, dynamic=False)
    _add(registry, "vilt", "ViltModel", "ViltConfig", towers, dynamic=False)
    _add(registry, "git", "GitModel", "GitConfig", towers,
         lambda d: {"vision_config": nested(d)["vision_config"]}, dynamic=False)  # fmt: skip
    _add(registry, "flava_text", "FlavaTextModel", "FlavaTextConfig", tokens)
    _add(registry, "visual_bert", "VisualBertModel", "VisualBertConfig",
         lambda d: spec([tensor("input_ids", "i64", ["B", "S"], "randint:3:99"),
                         tensor("attention_mask", "i64", ["B", "S"], "rightpad"),
                         tensor("visual_embeds", "f", ["B", 5, 24], "normal")],
                        {"B": 3, "S": 7}, B=2, S=9),
         {"visual_embedding_dim": 24})  # fmt: skip
    _add(registry, "blip2_qformer", "Blip2QFormerModel", "Blip2QFormerConfig",
         lambda d: spec([tensor("query_embeds", "f", ["B", 6, d.hidden], "normal"),
                         tensor("encoder_hidden_states", "f", ["B", "S", 24], "normal")],
                        {"B": 3, "S": 7}, B=2, S=9),
         {"encoder_hidden_size": 24, "cross_attention_frequency": 1})  # fmt: skip
    _add(registry, "clvp_encoder", "ClvpEncoder", "ClvpEncoderConfig",
         lambda d: tokens(d, mask="rightpad"))  # fmt: skip
