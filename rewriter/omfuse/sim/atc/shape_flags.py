"""The shape flags as ATC reads them, and which run of the model they mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from omfuse.sim.atc.failure import bad_value, fail

Dims = tuple[int, ...]
Range = tuple[int, int]
_GEAR_FLAGS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")
_MODES = dict(zip(_GEAR_FLAGS, ("batch", "image", "dims"), strict=True))
_INT_MAX = 2**31 - 1
_MAX_GEARS, _MAX_GEARS_950 = 100, 256


@dataclass
class ShapeRequest:
    """What the flags ask for.

    Attributes:
        mode: ``static``, ``batch``, ``image``, ``dims`` or ``dynamic``.
        dims: by input name (or by position under ``#0``, ``#1``), -1 where open.
        ranges: by the same keys, for ``dynamic``.
        gears: numbers of each gear.
        order: names as the flag lists them, the order of the numbers of dims gears.
    """

    mode: str = "static"
    dims: dict[str, Dims] = field(default_factory=dict)
    ranges: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    gears: list[Dims] = field(default_factory=list)
    order: list[str] = field(default_factory=list)


def read_shapes(given: Mapping[str, str]) -> ShapeRequest:
    """Read the flags without the model.

    Raises:
        AtcFailure: by the rules of ``input_shape`` and of the dynamic flags.
    """
    dynamic = [n for n in (*_GEAR_FLAGS, "input_shape_range") if n in given]
    if len(dynamic) > 1:
        listed = ", ".join(f"--{name}" for name in dynamic)
        raise fail("E10009", f"[{listed}] cannot be specified at the same time.")
    flag = dynamic[0] if dynamic else ""
    if "input_hint_shape" in given and flag in _GEAR_FLAGS:
        raise bad_value("input_hint_shape", given["input_hint_shape"], f"It excludes --{flag}.")
    if flag == "input_shape_range":
        return _ranges(given[flag], flag, brackets=True)
    text = given.get("input_shape", "")
    if flag:
        return _gears(flag, given, text)
    if "input_shape" in given and not text.strip():
        raise fail("E10004", "Value for [--input_shape] is empty.")
    if not text:
        return ShapeRequest()
    # A plain search, as ATC does it: an input called attn-1 takes this way too.
    if "~" in text or "-1" in text:
        return _ranges(text, "input_shape", brackets=False)
    dims = {name: _static(name, words) for name, words in _items(text)}
    if not dims:
        raise fail("E10004", "Value for [--input_shape] is empty.")
    return ShapeRequest("static", dims)


def _items(text: str, named: bool = True) -> list[tuple[str, list[str]]]:
    found = []
    for item in text.split(";"):
        if not item.strip():
            continue
        name, colon, body = item.rpartition(":")
        if named and (not colon or not name.strip()):
            raise fail("E10002", f"[--input_shape] value [{text}] is invalid. name:dim,dim;name:..")
        words = [word.strip() for word in body.split(",")] if body.strip() else []
        found.append((name.strip(), words))
    return found


def _static(name: str, words: Sequence[str]) -> Dims:
    dims = []
    for word in words:
        if "." in word or re.fullmatch(r"[+-]?\d+\D.*", word):
            raise fail("E10002", f"[--input_shape] of [{name}]: [{word}] is not an integer.")
        if not re.fullmatch(r"[+-]?\d+", word):
            raise fail("E10014", f"Dim [{word}] of [{name}] in [--input_shape] is invalid.")
        if abs(int(word)) > _INT_MAX:
            raise fail("E10013", f"Dim [{word}] of [{name}] in [--input_shape] is out of range.")
        if int(word) <= 0:
            raise fail("E10011", f"Dim [{word}] of [{name}] in [--input_shape] must be positive.")
        dims.append(int(word))
    return tuple(dims)


def _ranges(text: str, flag: str, brackets: bool) -> ShapeRequest:
    request = ShapeRequest("dynamic")
    items = _items(text, named=False)
    if not items:
        raise fail("E10004", f"Value for [--{flag}] is empty.")
    if len({bool(name) for name, _ in items}) > 1:
        raise _bad_range(flag, text, "name every input or none")
    for index, (name, words) in enumerate(items):
        if brackets:
            body = ",".join(words)
            if not (body.startswith("[") and body.endswith("]")):
                raise _bad_range(flag, text, "dims stand in brackets")
            words = [word.strip() for word in body[1:-1].split(",") if word.strip()]
        pairs = tuple(_range(word, flag, text) for word in words)
        key = name or f"#{index}"
        request.ranges[key] = pairs
        request.dims[key] = tuple(low if low == high else -1 for low, high in pairs)
    return request


def _range(word: str, flag: str, text: str) -> Range:
    if word == "-1":
        return 1, -1
    match = re.fullmatch(r"(\d+)(?:~(\d+|-1))?", word)
    if match is None:
        raise _bad_range(flag, text, f"[{word}] is no dim")
    low, high = int(match[1]), int(match[2] or match[1])
    if high != -1 and low > high:
        raise _bad_range(flag, text, f"[{word}] is upside down")
    return low, high


def _bad_range(flag: str, text: str, why: str) -> Exception:
    return fail("E10048", f"Value [{text}] for [--{flag}] is invalid. Reason: {why}.")


def _gears(flag: str, given: Mapping[str, str], text: str) -> ShapeRequest:
    if not text.strip():
        raise fail("E10004", f"Value for [--input_shape] is empty, but [--{flag}] needs it.")
    if "~" in text:
        raise fail("E10040", f"[--input_shape] [{text}] has a range, which excludes [--{flag}].")
    request = ShapeRequest(_MODES[flag])
    for name, words in _items(text):
        dims: list[int] = []
        for word in words:
            dims += [-1] if word == "-1" else _static(name, [word])
        request.dims[name] = tuple(dims)
    if not request.dims:
        raise fail("E10004", f"Value for [--input_shape] is empty, but [--{flag}] needs it.")
    value = given[flag]
    reader = {"batch": _batch, "image": _image, "dims": _dims}[request.mode]
    request.gears = reader(value, request, given)
    _check_gears(flag, value, request.gears, given.get("soc_version", ""))
    return request


def _check_gears(flag: str, value: str, gears: Sequence[Dims], soc: str) -> None:
    if len(gears) < 2:
        raise fail("E10035", f"[--{flag}] has [{len(gears)}] gear, it must have 2 or more.")
    if len({len(gear) for gear in gears}) > 1:
        raise fail("E10037", f"The gears of [--{flag}] [{value}] differ in length.")
    if any(size < 0 for gear in gears for size in gear):
        raise fail("E10038", f"A gear of [--{flag}] [{value}] is negative.")
    if len(set(gears)) < len(gears):
        raise fail("E10039", f"A gear of [--{flag}] [{value}] appears twice.")
    limit = _MAX_GEARS_950 if soc.startswith("Ascend950") else _MAX_GEARS
    if len(gears) > limit:
        raise fail("E10036", f"[--{flag}] has [{len(gears)}] gears, the maximum is [{limit}].")


def _batch(value: str, request: ShapeRequest, given: Mapping[str, str]) -> list[Dims]:
    if not re.fullmatch(r"[\d,]*\d[\d,]*", value):
        raise bad_value("dynamic_batch_size", value, "Only digits and commas.", "E10003")
    found = False
    for name, dims in request.dims.items():
        if not dims:
            raise fail("E10012", f"Input [{name}] has no batch dim for [--dynamic_batch_size].")
        if -1 in dims[1:]:
            raise fail("E10018", f"Only dim 0 of [{name}] may be -1 with [--dynamic_batch_size].")
        found = found or dims[0] == -1
    if not found:
        raise fail("E10031", "No input has -1 at dim 0, which [--dynamic_batch_size] needs.")
    return [(int(word),) for word in value.split(",") if word]


def _image(value: str, request: ShapeRequest, given: Mapping[str, str]) -> list[Dims]:
    if given.get("input_format", "NCHW") not in ("NCHW", "NHWC"):
        raise bad_value("dynamic_image_size", value, "input_format must be NCHW.", "E10003")
    open_inputs = {name: dims for name, dims in request.dims.items() if -1 in dims}
    for name, dims in (open_inputs or request.dims).items():
        if len(dims) != 4 or [axis for axis, size in enumerate(dims) if size == -1] != [2, 3]:
            raise fail("E10019", f"Only H and W of [{name}] may be -1, and both must be.")
    gears: list[Dims] = []
    for pair in value.split(";"):
        if not pair.strip():
            continue
        words = [word.strip() for word in pair.split(",")]
        if len(words) != 2 or not all(word.isdigit() for word in words):
            raise fail("E10020", f"[{pair}] of [--dynamic_image_size] is no height,width.")
        gears.append((int(words[0]), int(words[1])))
    return gears


def _dims(value: str, request: ShapeRequest, given: Mapping[str, str]) -> list[Dims]:
    if not value.strip():
        raise fail("E10058", "Value for [--dynamic_dims] is empty.")
    gears = []
    for part in value.split(";"):
        if not part.strip():
            continue
        words = [word.strip() for word in part.split(",")]
        if not all(word.isdigit() for word in words):
            raise bad_value("dynamic_dims", value, "Only digits are allowed.")
        gears.append(tuple(int(word) for word in words))
    holes = sum(dims.count(-1) for dims in request.dims.values())
    if not holes:
        raise fail("E10040", "[--dynamic_dims] is given, but no dim in [--input_shape] is -1.")
    if len({len(gear) for gear in gears}) == 1 and len(gears[0]) != holes:
        reason = f"A gear has {len(gears[0])} numbers for {holes} dims of -1."
        raise bad_value("dynamic_dims", value, reason, "E10003")
    return gears


def match_inputs(
    request: ShapeRequest, graph: Mapping[str, Sequence[int]], nodes: set[str]
) -> ShapeRequest:
    """Name positions and check the request against the model's inputs (-1 where open).

    Raises:
        AtcFailure: unknown names, ranks and fixed dims that do not fit, open dims left open.
    """
    names = list(graph)
    by_position = any(key.startswith("#") for key in request.dims)
    if by_position and len(request.dims) != len(names):
        raise fail("E10048", f"{len(request.dims)} shapes for {len(names)} inputs.")
    rename = {f"#{index}": name for index, name in enumerate(names)} if by_position else {}
    result = ShapeRequest(request.mode, gears=request.gears)
    for key, dims in request.dims.items():
        name = rename.get(key, key)
        if name not in graph:
            code, what = (
                ("E10017", "is not an input") if name in nodes else ("E10016", "is unknown")
            )
            raise fail(code, f"Name [{name}] in [--input_shape] {what} of the model.")
        if len(dims) != len(graph[name]):
            # Only the range form has a check of its own; otherwise the parser gives up.
            raise fail(
                "E10049" if request.mode == "dynamic" else "E19999",
                f"Input [{name}] has rank {len(graph[name])} in the model, {len(dims)} is given.",
            )
        result.dims[name] = dims
        if key in request.ranges:
            _check_ranges(name, request.ranges[key], graph[name])
            result.ranges[name] = request.ranges[key]
    for name in names:
        fixed = tuple(graph[name])
        if name not in result.dims:
            if request.mode in _MODES.values():
                raise fail("E10045", f"Input [{name}] is missing in [--input_shape].")
            if request.mode == "dynamic" and fixed:
                raise fail("E10048", f"{len(request.dims)} shapes for {len(names)} inputs.")
            result.dims[name] = fixed
            result.ranges[name] = tuple((s, s) if s >= 0 else (1, -1) for s in fixed)
        if -1 in result.dims[name] and request.mode == "static":
            raise bad_value(
                "input_shape",
                "",
                f"The shapes of inputs contain -1 in the model: [{name}]; set them.",
            )
    result.order = list(result.dims)
    result.dims = {name: result.dims[name] for name in names}
    return result


def _check_ranges(name: str, ranges: Sequence[Range], dims: Sequence[int]) -> None:
    for axis, ((low, high), size) in enumerate(zip(ranges, dims, strict=True)):
        if size >= 0 and not (low <= size and (high == -1 or size <= high)):
            raise fail("E10050", f"Dim {axis} of [{name}] is {size}, outside of [{low}~{high}].")


def gear_dims(request: ShapeRequest) -> list[dict[str, Dims]]:
    """Return the dims of every input for each gear."""
    found = []
    for gear in request.gears:
        shapes, at = {}, 0
        for name in request.order:
            dims = request.dims[name]
            if request.mode == "batch":
                filled = tuple(gear[0] if size == -1 else size for size in dims)
            elif request.mode == "image":
                filled = (*dims[:2], *gear) if -1 in dims else dims
            else:
                numbers = iter(gear[at:])
                filled = tuple(next(numbers) if size == -1 else size for size in dims)
                at += dims.count(-1)
            shapes[name] = filled
        found.append({name: shapes[name] for name in request.dims})
    return found
