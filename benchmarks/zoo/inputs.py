"""Inputs described by a specification, so that a corpus needs no data files.

    {"dims": {"B": 2, "S": 10}, "alt": {"B": 1, "S": 7},
     "inputs": [{"name": "input_ids", "dtype": "i64", "shape": ["B", "S"], "gen": "randint:3:90"}]}

A shape entry is an int or an expression over dims. dtype: i64, i32, bool, f32, or f for the
model's own float type. This file is copied beside each generated manifest, so that a corpus folder
explains itself; it needs numpy only.
"""

import numpy as np

_DTYPES = {"i64": np.int64, "i32": np.int32, "bool": np.bool_, "f32": np.float32}


def _size(entry, dims):
    return entry if isinstance(entry, int) else int(eval(entry, {"__builtins__": {}}, dict(dims)))


def _padding(shape, left):
    """A mask of ones whose rows lose 0, 2, 4, ... positions at one end, never all of them."""
    mask = np.ones(shape)
    length = shape[-1]
    for row in range(shape[0]):
        lost = (2 * row) % max(length - 1, 1)
        if lost:
            mask[row, ..., slice(0, lost) if left else slice(length - lost, length)] = 0
    return mask


def _generate(kind, arguments, shape, random):
    if kind == "randint":
        return random.integers(int(arguments[0]), int(arguments[1]), size=shape)
    if kind == "normal":
        return random.standard_normal(shape) * (float(arguments[0]) if arguments else 1.0)
    if kind == "uniform":
        return random.uniform(0, 1, size=shape)
    if kind in ("ones", "zeros", "const"):
        return np.full(shape, {"ones": 1, "zeros": 0}.get(kind, float((arguments or [0])[0])))
    if kind in ("rightpad", "leftpad"):
        return _padding(shape, kind == "leftpad")
    if kind == "arange":
        return np.broadcast_to(np.arange(shape[-1]), shape).copy()
    if kind == "boolmask":
        keep = random.uniform(size=shape) > 0.3
        keep[..., 0] = True
        return keep
    if kind == "floatmask":
        return np.where(_generate("boolmask", [], shape, random), 0.0, -1e4)
    if kind == "causalbool":
        return np.broadcast_to(np.tril(np.ones(shape[-2:])) > 0, shape).copy()
    if kind == "boxes":
        corners = np.sort(random.integers(0, int(arguments[0]), size=(*shape[:-1], 2, 2)), axis=-2)
        return corners.reshape(shape)
    raise ValueError(f"unknown generator {kind!r}")


def make_inputs(spec, seed=0, dims=None, float_dtype="float32"):
    """Arrays by name for one set of dims; the same seed gives the same arrays."""
    random = np.random.default_rng(seed)
    known = {**spec.get("dims", {}), **(dims or {})}
    arrays = {}
    for entry in spec["inputs"]:
        shape = tuple(_size(e, known) for e in entry["shape"])
        kind, *arguments = entry["gen"].split(":")
        dtype = _DTYPES.get(entry["dtype"], np.dtype(float_dtype))
        arrays[entry["name"]] = np.asarray(_generate(kind, arguments, shape, random)).astype(dtype)
    return arrays
