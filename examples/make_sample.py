"""Export `sample.onnx`: a small translation model with random weights, by PyTorch's own exporter.

    pip install torch onnx onnxscript
    python examples/make_sample.py            # writes examples/sample.onnx

The file is committed, so that nobody needs torch to try omfuse; this script is its source. The
graph is what an exporter writes, not what is easy to match. It holds

* two encoder layers with attention written by hand: scores divided by sqrt(depth), a padding mask
  added as (1 - mask) * -10000, and a bias table looked up by relative position;
* two decoder layers, each with causal grouped-query self-attention (four query heads on two
  key/value heads, rotary positions, `masked_fill` with -inf) and a cross-attention through
  `torch.nn.functional.scaled_dot_product_attention` with a boolean mask;
* two softmaxes that are not attention: pooling over positions and the choice of the next token.

Batch, source length and target length are dynamic.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY, HIDDEN, HEADS, KV_HEADS, LAYERS, FEED_FORWARD = 96, 32, 4, 2, 2, 48
DEPTH = HIDDEN // HEADS
MAX_DISTANCE = 8


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * depth] -> [batch, heads, length, depth]."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, depth] -> [batch, length, heads * depth]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions on [batch, heads, length, depth]."""
    frequencies = 10000.0 ** (-torch.arange(0, DEPTH, 2, dtype=torch.float32) / DEPTH)
    angles = positions[:, None].to(torch.float32) * frequencies
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, FEED_FORWARD), nn.Linear(FEED_FORWARD, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class BiasedAttention(nn.Module):
    """Self-attention with a padding mask and a bias by relative position, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.bias = nn.Embedding(2 * MAX_DISTANCE + 1, HEADS)

    def forward(self, x: Tensor, penalty: Tensor) -> Tensor:
        query, key, value = (split_heads(f(x), HEADS) for f in (self.query, self.key, self.value))
        positions = torch.arange(x.shape[1])
        distance = (positions[None, :] - positions[:, None]).clamp(-MAX_DISTANCE, MAX_DISTANCE)
        bias = self.bias(distance + MAX_DISTANCE).permute(2, 0, 1).unsqueeze(0)
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(DEPTH)
        weights = torch.softmax(scores + bias + penalty, dim=-1)
        return self.out(merge_heads(torch.matmul(weights, value)))


class GroupedCausalAttention(nn.Module):
    """Causal self-attention whose query heads share key/value heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.key = nn.Linear(HIDDEN, KV_HEADS * DEPTH, bias=False)
        self.value = nn.Linear(HIDDEN, KV_HEADS * DEPTH, bias=False)
        self.out = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        positions = torch.arange(length)
        query = rotate(split_heads(self.query(x), HEADS), positions)
        key = rotate(split_heads(self.key(x), KV_HEADS), positions)
        value = split_heads(self.value(x), KV_HEADS)

        def repeat(y: Tensor) -> Tensor:
            y = y[:, :, None].expand(batch, KV_HEADS, HEADS // KV_HEADS, length, DEPTH)
            return y.reshape(batch, HEADS, length, DEPTH)

        scores = torch.matmul(query, repeat(key).transpose(-1, -2)) * DEPTH**-0.5
        scores = scores.masked_fill(positions[None, :] > positions[:, None], float("-inf"))
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        return self.out(merge_heads(torch.matmul(weights, repeat(value))))


class CrossAttention(nn.Module):
    """Attention of the target to the source through torch's fused call."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))

    def forward(self, x: Tensor, source: Tensor, keep: Tensor) -> Tensor:
        query = split_heads(self.query(x), HEADS)
        key, value = (split_heads(f(source), HEADS) for f in (self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keep)
        return self.out(merge_heads(mixed))


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.feed_forward = BiasedAttention(), FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(2))

    def forward(self, x: Tensor, penalty: Tensor) -> Tensor:
        x = self.norms[0](x + self.attention(x, penalty))
        return self.norms[1](x + self.feed_forward(x))


class DecoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cross = GroupedCausalAttention(), CrossAttention()
        self.feed_forward = FeedForward()
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(3))

    def forward(self, x: Tensor, source: Tensor, keep: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        x = x + self.cross(self.norms[1](x), source, keep)
        return x + self.feed_forward(self.norms[2](x))


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN)
        self.encoder = nn.ModuleList(EncoderLayer() for _ in range(LAYERS))
        self.decoder = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.pool = nn.Linear(HIDDEN, 1)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, source_ids: Tensor, source_mask: Tensor, target_ids: Tensor) -> tuple:
        penalty = (1.0 - source_mask[:, None, None, :].to(torch.float32)) * -10000.0
        source = self.embedding(source_ids)
        for layer in self.encoder:
            source = layer(source, penalty)
        keep = source_mask[:, None, None, :].to(torch.bool)
        x = self.embedding(target_ids)
        for layer in self.decoder:
            x = layer(x, source, keep)
        gate = torch.softmax(self.pool(source) + penalty[:, 0].transpose(1, 2), dim=1)
        return torch.softmax(self.head(x), dim=-1), (gate * source).sum(dim=1)


def build(seed: int = 0) -> Translator:
    """The model, its weights large enough that a wrong scale or a lost mask shows."""
    torch.manual_seed(seed)
    model = Translator().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 1.5 / math.sqrt(parameter.shape[-1]))
        model.embedding.weight.normal_()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(__file__).with_name("sample.onnx")
    )
    parser.add_argument("--opset", type=int, default=17)
    arguments = parser.parse_args()
    source_ids = torch.randint(0, VOCABULARY, (2, 12))
    source_mask = (torch.arange(12)[None, :] < torch.tensor([[12], [9]])).to(torch.int64)
    target_ids = torch.randint(0, VOCABULARY, (2, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            build(),
            (source_ids, source_mask, target_ids),
            str(arguments.output),
            input_names=["source_ids", "source_mask", "target_ids"],
            output_names=["next_token", "summary"],
            dynamic_axes={
                "source_ids": {0: "batch", 1: "source"},
                "source_mask": {0: "batch", 1: "source"},
                "target_ids": {0: "batch", 1: "target"},
                "next_token": {0: "batch", 1: "target"},
                "summary": {0: "batch"},
            },
            opset_version=arguments.opset,
            dynamo=False,
        )
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
