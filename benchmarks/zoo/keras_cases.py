"""Keras models through tf2onnx; needs tensorflow and tf2onnx instead of torch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from benchmarks.zoo.cases import Built, Dice, Registry, Spec, spec, tensor

SOURCE = f"keras {keras.__version__}"


def _stream(dice: Dice, *more: dict[str, Any]) -> Spec:
    inputs = [tensor("x", "f", ["B", "S", dice.hidden], "normal"), *more]
    return spec(inputs, {"B": 3, "S": 7, "T": 5}, B=2, S=dice.length, T=6)


def _mha(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    y = keras.layers.MultiHeadAttention(dice.heads, dice.depth)(x, x)
    return Built(keras.Model(x, y), _stream(dice), dice.heads, dice.hidden)


def _mha_masked(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    keep = keras.Input((None,), dtype="bool", name="keep")
    mask = keras.ops.expand_dims(keep, 1)
    y = keras.layers.MultiHeadAttention(dice.heads, dice.depth, value_dim=dice.depth + 3)(
        x, x, attention_mask=mask, use_causal_mask=True
    )
    described = _stream(dice, tensor("keep", "bool", ["B", "S"], "boolmask"))
    return Built(keras.Model([x, keep], y), described, dice.heads, dice.hidden)


def _gqa(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    y = keras.layers.GroupQueryAttention(dice.depth, dice.heads, 2)(x, x)
    return Built(keras.Model(x, y), _stream(dice), dice.heads, dice.hidden)


def _dot(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    memory = keras.Input((None, dice.hidden), name="memory")
    y = keras.layers.Attention(use_scale=True)([x, memory])
    described = _stream(dice, tensor("memory", "f", ["B", "T", dice.hidden], "normal"))
    return Built(keras.Model([x, memory], y), described, 1, dice.hidden)


def _additive(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    y = keras.layers.AdditiveAttention()([x, x])
    return Built(keras.Model(x, y), _stream(dice), 1, dice.hidden)


class _Written(keras.layers.Layer):
    """BERT as TensorFlow's own examples write it: matmul, scale, (1 - mask) * -10000, softmax."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self.heads, self.depth, self.hidden = dice.heads, dice.depth, dice.hidden
        self.query, self.key, self.value = (keras.layers.Dense(dice.hidden) for _ in range(3))

    def call(self, x: Any, mask: Any) -> Any:
        batch, length = tf.shape(x)[0], tf.shape(x)[1]

        def split(y: Any) -> Any:
            y = tf.reshape(y, (batch, length, self.heads, self.depth))
            return tf.transpose(y, (0, 2, 1, 3))

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = tf.matmul(q, k, transpose_b=True) * self.depth**-0.5
        scores = scores + (1.0 - mask[:, None, None, :]) * -10000.0
        mixed = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), (0, 2, 1, 3))
        return tf.reshape(mixed, (batch, length, self.hidden))


def _written(dice: Dice) -> Built:
    x = keras.Input((None, dice.hidden), name="x")
    mask = keras.Input((None,), name="mask")
    y = _Written(dice)(x, mask)
    described = _stream(dice, tensor("mask", "f32", ["B", "S"], "rightpad"))
    return Built(keras.Model([x, mask], y), described, dice.heads, dice.hidden)


def _vision(dice: Dice) -> Built:
    x = keras.Input((16, 16, 3), name="x")
    y = keras.layers.Conv2D(dice.hidden, 4, 4)(x)
    y = keras.layers.Reshape((16, dice.hidden))(y)
    for _ in range(dice.layers):
        z = keras.layers.LayerNormalization()(y)
        y = y + keras.layers.MultiHeadAttention(dice.heads, dice.depth)(z, z)
        z = keras.layers.LayerNormalization()(y)
        y = y + keras.layers.Dense(dice.hidden, activation="gelu")(z)
    described = spec([tensor("x", "f", ["B", 16, 16, 3], "normal")], {"B": 3}, B=2)
    return Built(keras.Model(x, keras.layers.GlobalAveragePooling1D()(y)), described, dice.heads)


def register(registry: Registry) -> None:
    options: dict[str, Any] = {"exporters": ("tf2onnx",), "opsets": (11, 13, 15, 17, 18),
                               "attn": ("eager",), "dynamic": True}  # fmt: skip
    for family, build, expected in (
        ("mha", _mha, 1), ("mha_masked", _mha_masked, 1), ("gqa", _gqa, 1), ("dot", _dot, 1),
        ("written", _written, 1), ("vision", _vision, None),
    ):  # fmt: skip
        blocks = Dice(f"keras_{family}").layers if expected is None else expected
        registry.add(f"keras_{family}", SOURCE, build, expected=blocks, **options)
    registry.add("keras_additive_never", SOURCE, _additive, expected=0, negative=True, **options)
