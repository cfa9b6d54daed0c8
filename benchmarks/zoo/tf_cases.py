"""TensorFlow models of transformers through tf2onnx; the last version that holds them is 4.57.

Needs tensorflow, tf-keras, tf2onnx and transformers<5 instead of torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # what transformers' models are written for

import tf2onnx  # noqa: F401 - without it this group is left out
import transformers
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, spec, tensor
from benchmarks.zoo.inputs import make_inputs

SOURCE = f"transformers {transformers.__version__} for TensorFlow"
Names = tuple[str, ...]  # of the settings: width, layers, heads, width of the feed-forward part

_BERT: Names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_GPT: Names = ("n_embd", "n_layer", "n_head", "")
_XLM: Names = ("emb_dim", "n_layers", "n_heads", "")
_T5: Names = ("d_model", "num_layers", "num_heads", "d_ff")
_SEQ2SEQ: Names = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")
_TINY = {"vocab_size": 100}


class _Model:
    """A model with inputs in a list, as a Keras model has them, and one tensor as output."""

    def __init__(self, model: Any, described: Spec) -> None:
        self._model, self._names = model, [entry["name"] for entry in described["inputs"]]
        self(list(make_inputs(described).values()))  # makes the weights
        self.get_weights, self.set_weights = model.get_weights, model.set_weights

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        many = inputs if isinstance(inputs, list) else [inputs]
        out = self._model(dict(zip(self._names, many, strict=True)), training=training)
        return out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]


def _settings(dice: Dice, names: Names) -> dict[str, int]:
    sizes = (dice.hidden, dice.layers, dice.heads, 2 * dice.hidden)
    return {name: size for name, size in zip(names, sizes, strict=True) if name}


def _built(name: str, config: Any, described: Spec, dice: Dice) -> Built:
    model = getattr(transformers, f"TF{name}Model")(config)
    return Built(_Model(model, described), described, dice.heads, dice.hidden)


def _text(name: str, names: Names, more: dict[str, Any]) -> Callable[[Dice], Built]:
    def build(dice: Dice) -> Built:
        config = getattr(transformers, f"{more.get('config', name)}Config")(
            **{
                **_TINY,
                **_settings(dice, names),
                **{k: v for k, v in more.items() if k != "config"},
            }
        )
        ids = tensor("input_ids", "i32", ["B", "S"], "randint:3:90")
        mask = tensor("attention_mask", "i32", ["B", "S"], "rightpad")
        return _built(name, config, spec([ids, mask], {"B": 3, "S": 7}, B=2, S=dice.length), dice)

    return build


def _translation(name: str, names: Names, more: dict[str, Any]) -> Callable[[Dice], Built]:
    def build(dice: Dice) -> Built:
        config = getattr(transformers, f"{name}Config")(
            **{**_TINY, **_settings(dice, names), "use_cache": False, **more},
            **({} if names is _T5 else {"decoder_layers": dice.layers,
                                        "decoder_attention_heads": dice.heads}),
        )  # fmt: skip
        described = spec(
            [tensor("input_ids", "i32", ["B", "S"], "randint:3:90"),
             tensor("attention_mask", "i32", ["B", "S"], "rightpad"),
             tensor("decoder_input_ids", "i32", ["B", "T"], "randint:3:90")],
            {"B": 3, "S": 7, "T": 5}, B=2, S=dice.length, T=6,
        )  # fmt: skip
        return _built(name, config, described, dice)

    return build


def _picture(name: str, more: dict[str, Any]) -> Callable[[Dice], Built]:
    def build(dice: Dice) -> Built:
        config = getattr(transformers, f"{more.get('config', name)}Config")(
            **_settings(dice, _BERT), image_size=32, patch_size=8,
            **{k: v for k, v in more.items() if k != "config"},
        )  # fmt: skip
        pixels = tensor("pixel_values", "f", ["B", 3, 32, 32], "normal")
        return _built(name, config, spec([pixels], {"B": 3}, B=2), dice)

    return build


def _short(names: Names) -> dict[str, int]:
    return {"n_positions": 64} if names is _GPT else {"max_position_embeddings": 64}


def register(registry: Registry) -> None:
    options: dict[str, Any] = {"exporters": ("tf2onnx",), "opsets": (13, 15, 17),
                               "attn": ("eager",), "dynamic": True}  # fmt: skip

    def add(family: str, build: Callable[[Dice], Built], times: int = 1, **more: Any) -> None:
        layers = Dice(f"tf_{family}").layers
        registry.add(f"tf_{family}", SOURCE, build, expected=times * layers, **options, **more)

    for family, name, more in (
        ("bert", "Bert", {}), ("roberta", "Roberta", {}), ("electra", "Electra", {}),
        ("albert", "Albert", {"embedding_size": 16}), ("mpnet", "MPNet", {}),
        ("roformer", "RoFormer", {}), ("layoutlm", "LayoutLM", {}),
        ("rembert", "RemBert", {"input_embedding_size": 16, "output_embedding_size": 16}),
        ("opt", "OPT", {"word_embed_proj_dim": None, "ffn_dim": 64}),
    ):  # fmt: skip
        add(family, _text(name, _BERT, {**_short(_BERT), **more}))
    distil = ("dim", "n_layers", "n_heads", "hidden_dim")
    add("distilbert", _text("DistilBert", distil, _short(distil)))
    add("xlnet", _text("XLNet", ("d_model", "n_layer", "n_head", "d_inner"), {}))
    for family, name in (("xlm", "XLM"), ("flaubert", "Flaubert")):
        add(family, _text(name, _XLM, _short(_XLM)))
    add("t5_encoder", _text("T5Encoder", _T5, {"config": "T5", "d_kv": 8}))
    add("t5", _translation("T5", _T5, {"d_kv": 8}), times=3)
    for family, name, extra in (
        ("bart", "Bart", {}), ("pegasus", "Pegasus", {}), ("marian", "Marian", {"pad_token_id": 1}),
        ("mbart", "MBart", {}), ("blenderbot", "Blenderbot", {}),
    ):  # fmt: skip
        add(family, _translation(name, _SEQ2SEQ, {**_short(_SEQ2SEQ), **extra}), times=3)
    for family, name in (("vit", "ViT"), ("deit", "DeiT"), ("data2vec", "Data2VecVision")):
        add(family, _picture(name, {}))
    # A causal mask of -10000 under a padding mask of -10000: a row without keys is left to rounding.
    for family, name in (("gpt2", "GPT2"), ("openai_gpt", "OpenAIGPT")):
        add(family, _text(name, _GPT, _short(_GPT)), minimum=0)
