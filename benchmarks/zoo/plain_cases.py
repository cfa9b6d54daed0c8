"""Attention written by hand in plain torch, in forms that libraries do not happen to contain."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, spec, tensor
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SOURCE = f"torch {torch.__version__.split('+')[0]}"


class Projected(nn.Module):
    """Query, key and value of one stream as [B, N, S, D], with an output projection."""

    def __init__(self, dice: Dice, streams: int = 3) -> None:
        super().__init__()
        self.heads, self.depth, self.hidden = dice.heads, dice.depth, dice.hidden
        self.projections = nn.ModuleList(
            nn.Linear(self.hidden, self.hidden) for _ in range(streams)
        )
        self.out = nn.Linear(self.hidden, self.hidden)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1))

    def streams(self, x: Tensor) -> list[Tensor]:
        return [self.split(projection(x)) for projection in self.projections]


class Sinks(Projected):
    """One learned extra logit a head that takes weight and gives no value."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.sink = nn.Parameter(torch.randn(self.heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = q @ k.transpose(-1, -2) * self.depth**-0.5
        sink = self.sink.view(1, -1, 1, 1).expand(x.shape[0], -1, x.shape[1], 1)
        return self.merge(torch.softmax(torch.cat([scores, sink], -1), -1)[..., :-1] @ v)


class Softcap(Projected):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = torch.tanh(q @ k.transpose(-1, -2) / math.sqrt(self.depth) / 5.0) * 5.0
        positions = torch.arange(x.shape[1])
        scores = scores.masked_fill(positions[None, :] > positions[:, None], -1e9)
        return self.merge(torch.softmax(scores, -1) @ v)


class Cosine(Projected):
    """Normalised query and key with one learned temperature a head."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.logit_scale = nn.Parameter(torch.randn(self.heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        scores = scores * self.logit_scale.clamp(max=4.6).exp()
        return self.merge(torch.softmax(scores, -1) @ v)


class WrittenOut(Projected):
    """Softmax from exponentials; `late` divides after the value contraction."""

    def __init__(self, dice: Dice, form: str) -> None:
        super().__init__(dice)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = q @ k.transpose(-1, -2) * self.depth**-0.5
        if self.form == "logsumexp":
            return self.merge(torch.exp(scores - torch.logsumexp(scores, -1, keepdim=True)) @ v)
        if self.form == "log_softmax":
            return self.merge(torch.exp(F.log_softmax(scores, -1)) @ v)
        if self.form != "nomax":
            scores = scores - scores.amax(-1, keepdim=True)
        weights = torch.exp(scores)
        if self.form == "late":
            return self.merge((weights @ v) / weights.sum(-1, keepdim=True))
        if self.form == "reciprocal":
            return self.merge((weights * torch.reciprocal(weights.sum(-1, keepdim=True))) @ v)
        return self.merge((weights / weights.sum(-1, keepdim=True)) @ v)


class Einsums(Projected):
    """One contraction form each; BSND operands, no transposes."""

    FORMS: ClassVar[dict[str, tuple[str, str]]] = {
        "blhd": ("blhd,bshd->bhls", "bhls,bshd->blhd"),
        "transposed": ("bshd,blhd->bhls", "bhls,bshd->bhld"),
        "head_last": ("blhd,bshd->blsh", "blsh,bshd->blhd"),
        "key_first": ("bshd,blhd->bhsl", "bhsl,bshd->blhd"),
    }

    def __init__(self, dice: Dice, form: str) -> None:
        super().__init__(dice)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.heads, self.depth)
        q, k, v = (projection(x).view(shape) for projection in self.projections)
        first, second = self.FORMS[self.form]
        if self.form == "transposed":
            scores = torch.einsum("blhd,bshd->bhls", q, k)
        else:
            left, right = (k, q) if self.form == "key_first" else (q, k)
            scores = torch.einsum(first, left, right)
        axis = {"head_last": 2, "key_first": 2}.get(self.form, 3)
        weights = torch.softmax(scores / math.sqrt(self.depth), axis)
        mixed = torch.einsum(second, weights, v)
        if self.form == "transposed":
            mixed = mixed.transpose(1, 2)
        return self.out(mixed.reshape(x.shape[0], x.shape[1], -1))


class ShawKeys(Projected):
    """Relative keys added before the scale (Shaw et al., 2018)."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.distance_embedding = nn.Embedding(33, self.depth)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        positions = torch.arange(x.shape[1])
        table = self.distance_embedding((positions[:, None] - positions[None, :]) + 16)
        scores = q @ k.transpose(-1, -2) + torch.einsum("bhld,lrd->bhlr", q, table)
        return self.merge(torch.softmax(scores / math.sqrt(self.depth), -1) @ v)


class RelativeShift(Projected):
    """Content and position terms of Transformer-XL, with its shift by padding and reshaping."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice, 4)
        self.u, self.v = (nn.Parameter(torch.randn(self.heads, self.depth)) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        q, k, v = (self.split(f(x)) for f in self.projections[:3])
        p = self.split(self.projections[3](position))
        content = (q + self.u[:, None]) @ k.transpose(-1, -2)
        terms = (q + self.v[:, None]) @ p.transpose(-1, -2)
        batch, heads, length, width = terms.shape
        padded = F.pad(terms, (1, 0)).view(batch, heads, width + 1, length)
        shifted = padded[:, :, 1:].view(batch, heads, length, width)[..., : content.shape[-1]]
        return self.merge(torch.softmax((content + shifted) * self.depth**-0.5, -1) @ v)


class Differential(Projected):
    """(softmax1 - lambda softmax2) V, both with keys of their own."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice, 5)

    def forward(self, x: Tensor) -> Tensor:
        q1, k1, q2, k2, v = self.streams(x)
        first, second = (
            torch.softmax(q @ k.transpose(-1, -2) * self.depth**-0.5, -1)
            for q, k in ((q1, k1), (q2, k2))
        )
        return self.merge((first - 0.3 * second) @ v)


class TwoValues(Projected):
    """The same weights mix two values."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v1, v2 = self.streams(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.depth**-0.5, -1)
        return self.merge(torch.tanh(weights @ v1) * (weights @ v2))


class HeadGate(Projected):
    """A learned factor a head on the weights, as BERT's head mask."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.gate = nn.Parameter(torch.rand(self.heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.depth**-0.5, -1)
        return self.merge((weights * self.gate.view(1, -1, 1, 1)) @ v)


class SplitKeys(Projected):
    """Old and new keys are scored apart and joined before the softmax."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (self.split(f(x)) for f in self.projections[:3])
        old_k, old_v = (self.split(f(memory)) for f in self.projections[3:])
        scores = torch.cat([q @ old_k.transpose(-1, -2), q @ k.transpose(-1, -2)], -1)
        weights = torch.softmax(scores * self.depth**-0.5, -1)
        old, new = weights[..., : memory.shape[1]], weights[..., memory.shape[1] :]
        return self.merge(old @ old_v + new @ v)


class Absorbed(Projected):
    """Two contractions over different depths that share their keys, as in absorbed MLA."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice, 5)

    def forward(self, x: Tensor) -> Tensor:
        q1, k1, q2, k2, v = self.streams(x)
        scores = q1 @ k1.transpose(-1, -2) + q2[..., :4] @ k2[..., :4].transpose(-1, -2)
        return self.merge(torch.softmax(scores * 0.21, -1) @ v)


class Windows(nn.Module):
    """Window attention over a map, six axes before the windows are merged, shifted mask."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.heads, self.hidden = dice.heads, dice.hidden
        self.qkv, self.out = (
            nn.Linear(self.hidden, 3 * self.hidden),
            nn.Linear(self.hidden, self.hidden),
        )
        self.bias = nn.Parameter(torch.randn(self.heads, 16, 16))
        self.register_buffer("mask", (torch.rand(4, 16, 16) > 0.8) * -100.0)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        windows = x.view(batch, 2, 4, 2, 4, self.hidden).permute(0, 1, 3, 2, 4, 5)
        qkv = self.qkv(windows.reshape(-1, 16, self.hidden))
        qkv = qkv.view(-1, 16, 3, self.heads, self.hidden // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * (self.hidden // self.heads) ** -0.5) @ k.transpose(-1, -2) + self.bias
        scores = scores.view(batch, 4, self.heads, 16, 16) + self.mask[None, :, None]
        weights = torch.softmax(scores.view(-1, self.heads, 16, 16), -1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, 2, 2, 4, 4, self.hidden)
        return self.out(mixed.permute(0, 1, 3, 2, 4, 5).reshape(batch, 8, 8, self.hidden))


class GroupedFiveAxes(Projected):
    """GQA without repeating keys: queries carry a group axis and broadcasting does the rest."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.split(self.projections[0](x))
        q = q.view(x.shape[0], 2, self.heads // 2, x.shape[1], self.depth)
        k, v = (
            f(x)[..., : 2 * self.depth]
            .view(x.shape[0], x.shape[1], 2, 1, -1)
            .permute(0, 2, 3, 1, 4)
            for f in self.projections[1:]
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.depth**-0.5, -1)
        return self.merge((weights @ v).reshape(x.shape[0], self.heads, x.shape[1], -1))


class FoldedMultiQuery(Projected):
    """One key head; queries of all heads are folded into the length axis."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q = self.split(self.projections[0](x)).reshape(batch, self.heads * length, self.depth)
        k, v = (f(x)[..., : self.depth] for f in self.projections[1:])
        scores = (q @ k.transpose(-1, -2)).view(batch, self.heads, length, length)
        scores = scores / math.sqrt(self.depth) + (1.0 - mask[:, None, None, :]) * -1e4
        weights = torch.softmax(scores, -1).view(batch, self.heads * length, length)
        return self.merge((weights @ v).view(batch, self.heads, length, self.depth))


class MaskTwice(Projected):
    """Masked before and zeroed after the softmax, as Conformer does."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = q @ k.transpose(-1, -2) * self.depth**-0.5
        drop = ~keep[:, None, None, :]
        weights = torch.softmax(scores.masked_fill(drop, float("-inf")), -1).masked_fill(drop, 0.0)
        return self.merge(weights @ v)


class LegacyCausal(Projected):
    """Scores times a triangle minus a large number times its complement."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        b = torch.tril(torch.ones(x.shape[1], x.shape[1]))
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.depth)
        return self.merge(torch.softmax(scores * b + -1e4 * (1 - b), -1) @ v)


class ChannelFirst(nn.Module):
    """Convolutional query, key, value; the value comes first in the contraction."""

    def __init__(self, dice: Dice, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dice.hidden
        self.qkv = nn.Conv2d(dice.hidden, 3 * dice.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        qkv = self.qkv(x).reshape(batch * self.heads, -1, height * across)
        q, k, v = qkv.chunk(3, dim=1)
        scale = (width // self.heads) ** -0.25
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), -1)
        return x + torch.einsum("bts,bcs->bct", weights, v).reshape(x.shape)


class AxialRows(nn.Module):
    """Attention along one axis of a map, the other one is a batch axis."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(dice.hidden, dice.hidden, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).permute(0, 3, 2, 1) for f in (self.q, self.k, self.v))
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1)
        return (weights @ v).permute(0, 3, 2, 1)


class LearnedQueries(Projected):
    """A fixed set of learned queries reads the sequence."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.queries = nn.Parameter(torch.randn(5, self.hidden))

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        q = self.split(self.projections[0](self.queries[None].expand(x.shape[0], -1, -1)))
        k, v = (self.split(f(x)) for f in self.projections[1:])
        return self.merge(F.scaled_dot_product_attention(q, k, v, keep[:, None, None]))


class CachedStep(Projected):
    """One decoding step with past keys and values as inputs and outputs."""

    def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.streams(x)
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        return self.merge(F.scaled_dot_product_attention(q, k, v, scale=0.2)), k, v


class Decayed(Projected):
    """ALiBi slopes computed from positions, sliding window, pre-softmax where."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        positions = torch.arange(x.shape[1])
        distance = positions[None, :] - positions[:, None]
        slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=torch.float32)
        scores = (q @ k.transpose(-1, -2)) * self.depth**-0.5 + slopes[:, None, None] * distance
        keep = (distance <= 0) & (distance > -4)
        return self.merge(torch.softmax(torch.where(keep, scores, -65504.0), -1) @ v)


# --- never attention -------------------------------------------------------------------------


class LinearAttention(Projected):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        return self.merge(torch.softmax(q, -1) @ (torch.softmax(k, -2).transpose(-1, -2) @ v))


class TalkingHeads(Projected):
    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        self.mix = nn.Linear(self.heads, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1)
        return self.merge(self.mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v)


class SlotCompetition(Projected):
    """Softmax over the queries and a mean over the keys (slot attention)."""

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        q = self.split(self.projections[0](slots))
        k, v = (self.split(f(x)) for f in self.projections[1:])
        weights = torch.softmax(q @ k.transpose(-1, -2) * 0.3, -2) + 1e-6
        return self.merge((weights / weights.sum(-1, keepdim=True)) @ v)


class Exposed(Projected):
    """The averaged weights are an output as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.streams(x)
        weights = torch.softmax(q @ k.transpose(-1, -2) * self.depth**-0.5, -1)
        return self.merge(weights @ v), weights.mean(1)


class DualSoftmax(Projected):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        scores = q @ k.transpose(-1, -2)
        return self.merge((torch.softmax(scores, -1) * torch.softmax(scores, -2)) @ v)


class ScoreMlp(Projected):
    """A nonlinearity between scores and softmax that no normal form has."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        return self.merge(torch.softmax(F.gelu(q @ k.transpose(-1, -2)), -1) @ v)


class WrongAxis(Projected):
    """Softmax over the queries, contraction over the keys: weights do not sum to one."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        return self.merge(torch.softmax(q @ k.transpose(-1, -2) * 0.3, -2) @ v)


class Retention(Projected):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.streams(x)
        positions = torch.arange(x.shape[1])
        decay = torch.tril(0.9 ** (positions[:, None] - positions[None, :]).abs().float())
        return self.merge((q @ k.transpose(-1, -2) * decay) @ v)


class Router(nn.Module):
    """Soft mixture of experts: softmax of a linear layer weighs stacked experts."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.gate = nn.Linear(dice.hidden, 4)
        self.experts = nn.Parameter(torch.randn(4, dice.hidden, dice.hidden) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.gate(x), -1)
        return torch.einsum("bse,bsd,edf->bsf", weights, x, self.experts)


def _stream(dice: Dice) -> Spec:
    return spec([tensor("x", "f", ["B", "S", dice.hidden], "normal")], {"B": 3, "S": 7},
                B=2, S=dice.length)  # fmt: skip


def _with(name: str, dtype: str, shape: Any, gen: str) -> Any:
    def make(dice: Dice) -> Spec:
        described = _stream(dice)
        wanted = [dice.hidden if e == "hidden" else e for e in shape]
        described["inputs"].append(tensor(name, dtype, wanted, gen))
        described["dims"]["T"], described["alt"]["T"] = 6, 4
        return described

    return make


def _map(size: int, channels_last: bool = False) -> Any:
    def make(dice: Dice) -> Spec:
        shape: list[int | str] = ["B", dice.hidden, size, size]
        if channels_last:
            shape = ["B", size, size, dice.hidden]
        return spec([tensor("x", "f", shape, "normal")], {"B": 3}, B=2)

    return make


def register(registry: Registry) -> None:
    def add(family: str, build: Any, inputs: Any = _stream, **options: Any) -> None:
        def make(dice: Dice) -> Built:
            return Built(build(dice), inputs(dice), dice.heads, dice.hidden)

        registry.add(f"pt_{family}", SOURCE, make, attn=("eager",), **options)

    keep = _with("keep", "bool", ["B", "S"], "boolmask")
    add("sinks", Sinks, expected=1)
    add("softcap", Softcap)
    add("cosine", Cosine)
    for form in ("plain", "nomax", "late", "reciprocal", "logsumexp", "log_softmax"):
        add(f"written_{form}", lambda d, f=form: WrittenOut(d, f), expected=1)
    for form in Einsums.FORMS:
        add(f"einsum_{form}", lambda d, f=form: Einsums(d, f))
    add("shaw_keys", ShawKeys)
    add("relative_shift", RelativeShift, _with("position", "f", ["B", "S", "hidden"], "normal"))
    add("differential", Differential, expected=2, minimum=0, notes="two blocks by linearity")
    add("two_values", TwoValues)
    add("head_gate", HeadGate, expected=1)
    add("split_keys", SplitKeys, _with("memory", "f", ["B", "T", "hidden"], "normal"), expected=1)
    add("absorbed", Absorbed)
    add("windows", Windows, _map(8, channels_last=True))
    add("grouped_five_axes", GroupedFiveAxes)
    add("folded_mqa", FoldedMultiQuery, _with("mask", "f32", ["B", "S"], "rightpad"))
    add("mask_twice", MaskTwice, keep)
    add("legacy_causal", LegacyCausal)
    add("channel_first", lambda d: ChannelFirst(d, 2), _map(5))
    add("non_local", lambda d: ChannelFirst(d, 1), _map(6))
    add("axial_rows", AxialRows, _map(6))
    add("learned_queries", LearnedQueries, keep)
    add("cached_step", CachedStep,
        lambda d: spec([tensor("x", "f", ["B", 1, d.hidden], "normal"),
                        tensor("past_k", "f", ["B", d.heads, "S", d.depth], "normal"),
                        tensor("past_v", "f", ["B", d.heads, "S", d.depth], "normal")],
                       {"B": 3, "S": 5}, B=2, S=8))  # fmt: skip
    add("decayed", Decayed)
    never = {"expected": 0, "negative": True}
    add("neg_linear", LinearAttention, **never)
    add("neg_talking_heads", TalkingHeads, **never)
    add("neg_slots", SlotCompetition, _with("slots", "f", ["B", "T", "hidden"], "normal"), **never)
    add("neg_dual_softmax", DualSoftmax, **never)
    add("neg_score_mlp", ScoreMlp, **never)
    add("neg_wrong_axis", WrongAxis, **never)
    add("neg_retention", Retention, **never)
    add("neg_router", Router, **never)
    add("exposed", Exposed, expected=1, minimum=0, notes="weights are an output too")
