"""Transformers of torchvision and of torch.nn, through their own constructors."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, image, spec, tensor
from torch import Tensor, nn
from torchvision.models import MaxVit, SwinTransformer, VisionTransformer, swin_transformer
from torchvision.models.video import swin_transformer as video_swin

SOURCE = f"torchvision {torchvision.__version__.split('+')[0]}"


def _vit(dice: Dice) -> Built:
    module = VisionTransformer(32, 8, dice.layers, dice.heads, dice.hidden, 32, num_classes=7)
    return Built(module, image(dice, 32, name="x"), dice.heads, dice.hidden)


def _swin(block: Any, merging: Any) -> Any:
    def build(dice: Dice) -> Built:
        module = SwinTransformer(
            [4, 4], 16, [2, 1], [2, 2], [4, 4], num_classes=7, block=block,
            downsample_layer=merging,
        )  # fmt: skip
        return Built(module, image(dice, 32, name="x"), 2)

    return build


def _swin3d(dice: Dice) -> Built:
    module = video_swin.SwinTransformer3d([2, 4, 4], 12, [2], [2], [2, 4, 4], num_classes=7)
    inputs = spec([tensor("x", "f", ["B", 3, 4, 32, 32], "normal")], {"B": 1}, B=2)
    return Built(module, inputs, 2)


def _maxvit(dice: Dice) -> Built:
    module = MaxVit((64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=7)
    return Built(module, image(dice, 64, name="x"))


class _Decode(nn.Module):
    """torch's encoder-decoder with causal, padding and memory masks."""

    def __init__(self, dice: Dice, norm_first: bool) -> None:
        super().__init__()
        self.model = nn.Transformer(
            dice.hidden, dice.heads, 1, dice.layers, 32, batch_first=True, norm_first=norm_first
        )

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        size = target.shape[1]
        causal = torch.triu(torch.ones(size, size, dtype=torch.bool), 1)
        drop = ~padding
        return self.model(
            source, target, tgt_mask=causal, src_key_padding_mask=drop,
            memory_key_padding_mask=drop,
        )  # fmt: skip


def _sequences(dice: Dice) -> Spec:
    inputs = [
        tensor("source", "f", ["B", "S", dice.hidden], "normal"),
        tensor("target", "f", ["B", "T", dice.hidden], "normal"),
        tensor("padding", "bool", ["B", "S"], "boolmask"),
    ]
    return spec(inputs, {"B": 3, "S": 7, "T": 5}, B=2, S=9, T=6)


class _Extras(nn.Module):
    """nn.MultiheadAttention with learned and zero extra keys."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            dice.hidden, dice.heads, add_bias_kv=True, add_zero_attn=True, batch_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def register(registry: Registry) -> None:
    registry.add("tv_vit", SOURCE, _vit, attn=("sdpa",))
    v1 = _swin(swin_transformer.SwinTransformerBlock, swin_transformer.PatchMerging)
    v2 = _swin(swin_transformer.SwinTransformerBlockV2, swin_transformer.PatchMergingV2)
    registry.add("tv_swin", SOURCE, v1, attn=("eager",))
    registry.add("tv_swin_v2", SOURCE, v2, attn=("eager",))
    registry.add("tv_swin3d", SOURCE, _swin3d, attn=("eager",))
    registry.add("tv_maxvit", SOURCE, _maxvit, attn=("eager",))
    for first in (False, True):

        def build(dice: Dice, norm_first: bool = first) -> Built:
            return Built(_Decode(dice, norm_first), _sequences(dice), dice.heads, dice.hidden)

        registry.add(f"nn_transformer_{'pre' if first else 'post'}", "torch", build, attn=("sdpa",))
    registry.add(
        "nn_mha_extra_keys", "torch",
        lambda d: Built(_Extras(d), spec([tensor("x", "f", ["B", "S", d.hidden], "normal")],
                                         {"B": 3, "S": 7}, B=2, S=9), d.heads, d.hidden),
        attn=("sdpa",),
    )  # fmt: skip
