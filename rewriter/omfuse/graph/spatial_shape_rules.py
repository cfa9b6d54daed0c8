"""Output shapes over ``[N, C, spatial...]``: convolutions, pools, resizing.

Formulas as in ONNX's operator documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omfuse.graph.dims import Size, divide
from omfuse.graph.shape_rules import Rule, Shape, shape_of, sizes_of

if TYPE_CHECKING:
    from omfuse.graph.facts import Facts
    from omfuse.graph.view import Node


def _conv(facts: Facts, node: Node, _index: int) -> Shape:
    return conv_shape(shape_of(facts, node, 0), shape_of(facts, node, 1), node)


def conv_shape(data: Shape, weight: Shape, node: Node) -> Shape:
    """Return the output of a convolution.

    Raises:
        ValueError: ``auto_pad`` has a value that does not exist.
    """
    kernel = node.attrs.get("kernel_shape", weight[2:])
    return (data[0], weight[0], *_windows(data[2:], kernel, node))


def _windows(spatial: Shape, kernel: Sequence[Any], node: Node) -> list[Size]:
    """Count the places of a sliding window along each spatial axis."""
    rank = len(spatial)
    strides = node.attrs.get("strides", [1] * rank)
    dilations = node.attrs.get("dilations", [1] * rank)
    pads = node.attrs.get("pads", [0] * 2 * rank)
    padding = node.attrs.get("auto_pad", "NOTSET")
    if padding.startswith("SAME"):
        return [divide(s + step - 1, step) for s, step in zip(spatial, strides, strict=True)]
    if padding not in ("NOTSET", "VALID"):
        raise ValueError(padding)
    result: list[Size] = []
    for axis, size in enumerate(spatial):
        padded = size if padding == "VALID" else size + pads[axis] + pads[axis + rank]
        room = padded - dilations[axis] * (kernel[axis] - 1) - 1
        result.append(divide(room, strides[axis]) + 1)
    return result


def _pool(facts: Facts, node: Node, _index: int) -> Shape | None:
    """Return the shape of a pool, the same for values and for indices."""
    if node.attrs.get("ceil_mode"):
        return None  # runtimes differ in windows that start beyond the data
    data = shape_of(facts, node, 0)
    return (*data[:2], *_windows(data[2:], node.attrs["kernel_shape"], node))


def _global_pool(facts: Facts, node: Node, _index: int) -> Shape:
    data = shape_of(facts, node, 0)
    return (*data[:2], *[1] * (len(data) - 2))


def _conv_transpose(facts: Facts, node: Node, _index: int) -> Shape | None:
    data, weight = shape_of(facts, node, 0), shape_of(facts, node, 1)
    rank = len(data) - 2
    spatial: list[Size] = list(node.attrs.get("output_shape", ()))
    if not spatial:
        if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        strides = node.attrs.get("strides", [1] * rank)
        dilations = node.attrs.get("dilations", [1] * rank)
        pads = node.attrs.get("pads", [0] * 2 * rank)
        extra = node.attrs.get("output_padding", [0] * rank)
        kernel = node.attrs.get("kernel_shape", weight[2:])
        for axis, size in enumerate(data[2:]):
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            cut = pads[axis] + pads[axis + rank] - extra[axis]
            spatial.append((size - 1) * strides[axis] + reach - cut)
    return (data[0], weight[1] * node.attrs.get("group", 1), *spatial)


def _depth_to_space(facts: Facts, node: Node, _index: int) -> Shape:
    block = node.attrs["blocksize"]
    n, c, h, w = shape_of(facts, node, 0)
    return n, divide(c, block * block), h * block, w * block


def _space_to_depth(facts: Facts, node: Node, _index: int) -> Shape:
    block = node.attrs["blocksize"]
    n, c, h, w = shape_of(facts, node, 0)
    return n, c * (block * block), divide(h, block), divide(w, block)


def _resize(facts: Facts, node: Node, _index: int) -> Shape:
    shape = shape_of(facts, node, 0)
    if "axes" in node.attrs:
        raise ValueError
    if len(node.inputs) > 3 and node.inputs[3]:
        return tuple(sizes_of(facts, node, 3))
    return _scaled(shape, sizes_of(facts, node, 1 if len(node.inputs) == 2 else 2))


def _upsample(facts: Facts, node: Node, _index: int) -> Shape:
    return _scaled(shape_of(facts, node, 0), sizes_of(facts, node, 1, "scales"))


def _scaled(shape: Shape, scales: Sequence[Any]) -> Shape:
    if any(scale != int(scale) for scale in scales):
        raise ValueError
    return tuple(size * int(scale) for size, scale in zip(shape, scales, strict=True))


def _grid_sample(facts: Facts, node: Node, _index: int) -> Shape:
    return (*shape_of(facts, node, 0)[:2], *shape_of(facts, node, 1)[1:-1])


RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "GlobalLpPool": _global_pool,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Resize": _resize,
    "Upsample": _upsample,
    "GridSample": _grid_sample,
}
