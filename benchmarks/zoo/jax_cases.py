"""JAX functions and Flax modules through jax2onnx; needs those instead of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, spec, tensor
from flax import linen, nnx

SOURCE = f"jax {jax.__version__}"


def _spec(dice: Dice, names: str, mask: str = "") -> Spec:
    """Operands [batch, length, heads, depth]; ``m`` and ``x`` have their own shapes."""
    sizes: dict[str, Sequence[Any]] = {
        "q": ["B", 9, dice.heads, dice.depth],
        "k": ["B", 7, dice.heads, dice.depth],
        "s": ["B", 9, dice.heads, dice.depth],
        "g": ["B", 9, dice.heads // 2, dice.depth],
        "x": ["B", 9, dice.hidden],
        "m": ["B", 1, 9, 7 if "k" in names else 9],
        "b": [1, dice.heads, 9, 7],
    }
    inputs = [
        tensor(f"{name}{i}", "f32", list(sizes[name]), "normal" if name != "m" else "boolmask")
        for i, name in enumerate(names)
    ]
    return spec(inputs, {"B": 3}, B=2)


def _function(names: str, make: Callable[[Dice], Callable[..., Any]]) -> Callable[[Dice], Built]:
    def build(dice: Dice) -> Built:
        return Built(make(dice), _spec(dice, names), dice.heads, dice.hidden)

    return build


def _attend(**options: Any) -> Callable[[Dice], Callable[..., Any]]:
    return lambda dice: lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **options)


def _masked(dice: Dice) -> Callable[..., Any]:
    return lambda q, k, v, m: jax.nn.dot_product_attention(q, k, v, mask=m > 0)


def _biased(dice: Dice) -> Callable[..., Any]:
    return lambda q, k, v, b: jax.nn.dot_product_attention(q, k, v, bias=b)


def _written(dice: Dice) -> Callable[..., Any]:
    def forward(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(dice.depth)
        scores = scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))
        powers = jnp.exp(scores)
        weights = powers / powers.sum(-1, keepdims=True)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    return forward


def _mapped(dice: Dice) -> Callable[..., Any]:
    def one(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.softmax(q @ k.T * dice.depth**-0.5) @ v

    return jax.vmap(jax.vmap(one, in_axes=1, out_axes=1))


def _capped(dice: Dice) -> Callable[..., Any]:
    """Gemma 2: grouped heads by einsum, a soft cap, a huge negative number for the future."""

    def forward(q: Any, k: Any, v: Any) -> Any:
        batch, length, heads, depth = q.shape
        groups = k.shape[2]
        q = q.reshape(batch, length, groups, heads // groups, depth)
        scores = jnp.einsum("btkgh,bskh->bkgts", q * depth**-0.5, k)
        scores = jnp.tanh(scores / 20.0) * 20.0
        past = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(past, scores, -2.3819763e38), axis=-1)
        return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(batch, length, heads, depth)

    return forward


def _nnx(**options: Any) -> Callable[[Dice], Callable[..., Any]]:
    def make(dice: Dice) -> Callable[..., Any]:
        module = nnx.MultiHeadAttention(
            num_heads=dice.heads, in_features=dice.hidden, qkv_features=dice.hidden,
            decode=False, rngs=nnx.Rngs(0), **options,
        )  # fmt: skip
        return lambda x: module(x)

    return make


def _nnx_masked(dice: Dice) -> Callable[..., Any]:
    module = nnx.MultiHeadAttention(
        num_heads=dice.heads, in_features=dice.hidden, decode=False, rngs=nnx.Rngs(0)
    )
    return lambda x, m: module(x, mask=m > 0)


def _linen(dice: Dice) -> Callable[..., Any]:
    module = linen.MultiHeadDotProductAttention(dice.heads, deterministic=True)
    weights = module.init(jax.random.key(0), jnp.ones((2, 9, dice.hidden)))
    mask = linen.make_causal_mask(jnp.ones((1, 9)))
    return lambda x: module.apply(weights, x, mask=mask)


class _Block(nnx.Module):
    def __init__(self, dice: Dice, rngs: nnx.Rngs) -> None:
        self.attend = nnx.MultiHeadAttention(
            num_heads=dice.heads, in_features=dice.hidden, decode=False, rngs=rngs
        )
        self.first, self.second = (nnx.LayerNorm(dice.hidden, rngs=rngs) for _ in range(2))
        self.linear = nnx.Linear(dice.hidden, dice.hidden, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = x + self.attend(self.first(x))
        return x + jax.nn.gelu(self.linear(self.second(x)))


def _encoder(dice: Dice) -> Callable[..., Any]:
    rngs = nnx.Rngs(0)
    blocks = [_Block(dice, rngs) for _ in range(dice.layers)]

    def forward(x: Any) -> Any:
        for block in blocks:
            x = block(x)
        return x

    return forward


def _over_queries(dice: Dice) -> Callable[..., Any]:
    def forward(q: Any, k: Any, v: Any) -> Any:
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k), axis=2)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    return forward


def register(registry: Registry) -> None:
    options: dict[str, Any] = {"exporters": ("jax2onnx",), "opsets": (21, 23), "attn": ("eager",)}
    for family, names, make in (
        ("dpa", "qkk", _attend()), ("dpa_causal", "sss", _attend(is_causal=True)),
        ("dpa_window", "sss", _attend(is_causal=True, local_window_size=3)),
        ("dpa_grouped", "sgg", _attend(scale=0.3)), ("dpa_mask", "qkkm", _masked),
        ("dpa_bias", "qkkb", _biased), ("written", "qkk", _written), ("mapped", "qkk", _mapped),
        ("capped", "sgg", _capped), ("nnx", "x", _nnx()), ("nnx_norm", "x", _nnx(normalize_qk=True)),
        ("nnx_mask", "xm", _nnx_masked), ("linen", "x", _linen),
    ):  # fmt: skip
        build = _function(names, make)
        registry.add(f"jax_{family}", SOURCE, build, expected=1, **options)
    layers = Dice("jax_encoder").layers
    registry.add("jax_encoder", SOURCE, _function("x", _encoder), expected=layers, **options)
    registry.add(
        "jax_over_queries_never", SOURCE, _function("qkk", _over_queries), expected=0,
        negative=True, **options,
    )  # fmt: skip
