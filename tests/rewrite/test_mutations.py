"""What --verify must catch: a rewrite that is nearly right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_text import build

import omfuse
from omfuse.diff import diff
from omfuse.fuse.contract import is_flash_attention

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"


def attention_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if is_flash_attention(node)]


def set_attribute(node: onnx.NodeProto, name: str, value: float | str) -> None:
    for index, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[index]
            break
    node.attribute.append(helper.make_attribute(name, value))


def insert_before(model: onnx.ModelProto, node: onnx.NodeProto, new: onnx.NodeProto) -> None:
    nodes = list(model.graph.node)
    position = next(i for i, n in enumerate(nodes) if n.output == node.output)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    copies.insert(position, new)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def wrong_scale(model: onnx.ModelProto) -> None:
    node = attention_nodes(model)[0]
    scale = next(a.f for a in node.attribute if a.name == "scale")
    set_attribute(node, "scale", scale * 1.02)


def dropped_mask(model: onnx.ModelProto) -> None:
    node = next(n for n in attention_nodes(model) if len(n.input) > 4 and n.input[4])
    node.input[4] = ""


def dropped_bias(model: onnx.ModelProto) -> None:
    node = next(n for n in attention_nodes(model) if len(n.input) > 3 and n.input[3])
    node.input[3] = ""


def swapped_key_heads(model: onnx.ModelProto) -> None:
    node = attention_nodes(model)[0]
    layout = next(a.s for a in node.attribute if a.name == "layout").decode()
    heads = next(a.i for a in node.attribute if a.name == "num_kv_heads")
    order = np.roll(np.arange(heads), 1)
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    axis = 1 if layout == "BNSD" else 2
    swap = helper.make_node("Gather", [node.input[1], "order"], ["swapped"], axis=axis)
    node.input[1] = "swapped"
    insert_before(model, node, swap)


MUTATIONS: list[Callable[[onnx.ModelProto], None]] = [
    wrong_scale,
    dropped_mask,
    dropped_bias,
    swapped_key_heads,
]


@pytest.fixture(scope="module")
def rewritten() -> onnx.ModelProto:
    return omfuse.rewrite(SAMPLE).model


def test_the_sample_itself_passes(rewritten: onnx.ModelProto) -> None:
    assert diff(SAMPLE, rewritten, cache=False).verdict == "pass"


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda f: f.__name__)
def test_a_mutated_rewrite_fails(
    rewritten: onnx.ModelProto, mutate: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(rewritten)
    mutate(model)
    assert diff(SAMPLE, model, cache=False).verdict == "fail"


def test_a_causal_mask_off_by_one_fails() -> None:
    body = """kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) f = Constant<value_float=-1e9>()
        z = Where(m, s, f) p = Softmax<axis=-1>(z) y = MatMul(p, v)"""
    model = build(body, "float[2,3,6,4] q, float[2,3,6,4] k, float[2,3,6,4] v")
    triangle = np.tril(np.ones((6, 6), dtype=bool))
    model.graph.initializer.append(numpy_helper.from_array(triangle, "m"))
    result = omfuse.rewrite(model).model
    assert diff(model, result, cache=False).verdict == "pass"
    node = attention_nodes(result)[0]
    set_attribute(node, "causal", "none")
    set_attribute(node, "window_right", 1)
    assert diff(model, result, cache=False).verdict == "fail"
