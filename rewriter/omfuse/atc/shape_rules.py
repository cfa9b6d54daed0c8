"""The grammar of ATC's shape flags and the rules between them.

Written from graph-engine 9.2 ``option_utils.cc`` and ``multi_batch_options.cc``; the codes are
those with which ATC stops.  The same text is read here as ATC reads it, including that a plain
``-1`` anywhere in ``input_shape`` (even in a name) turns the shape into a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from omfuse.atc.options import AtcOptions
from omfuse.atc.problem import RuleBreak, is_whole

MAX_GEARS = 100  # documented for all parts but Ascend950, where it is 256
MAX_GEARS_950 = 256
_INT_MAX = 2**31 - 1
DYNAMIC = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims", "input_shape_range")


@dataclass(frozen=True)
class ShapeItem:
    """One item of ``input_shape``: a name (empty in the form by position) and its dim texts."""

    name: str
    dims: tuple[str, ...]


class _BrokenRuleError(Exception):
    def __init__(self, code: str, flag: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule = RuleBreak(code, flag, message, hint)


def check_shapes(
    options: AtcOptions, graph: Mapping[str, Sequence[int | str]] | None = None, soc: str = ""
) -> list[RuleBreak]:
    """Check every shape flag; ``graph`` maps the model's real inputs to their shapes."""
    try:
        return _check(options, graph, soc)
    except _BrokenRuleError as broken:
        return [broken.rule]


def split_items(text: str, flag: str = "input_shape") -> list[ShapeItem]:
    """Split ``n1:d,d;n2:d,d`` on ``;`` and each item on its last ``:``."""
    items = []
    for part in text.split(";"):
        if not part.strip():
            continue
        name, colon, dims = part.rpartition(":")
        if not colon:
            name = ""
        words = tuple(d.strip() for d in dims.split(",")) if dims.strip() else ()
        items.append(ShapeItem(name.strip(), words))
    if not items:
        raise _BrokenRuleError("E10004", flag, "the value is empty", "name:dim,dim;name:dim,dim")
    return items


def _check(
    options: AtcOptions, graph: Mapping[str, Sequence[int | str]] | None, soc: str
) -> list[RuleBreak]:
    """Raise the first broken rule; return what is only a warning."""
    given = [name for name in DYNAMIC if getattr(options, name) is not None]
    if len(given) > 1:
        raise _BrokenRuleError(
            "E10009", given[0], f"{given[0]} and {given[1]} exclude one another", "keep one of them"
        )
    gear_flag = given[0] if given and given[0] != "input_shape_range" else None
    if options.input_hint_shape is not None and gear_flag:
        raise _BrokenRuleError("E10001", "input_hint_shape", f"it does not go with {gear_flag}")
    if gear_flag and not (options.input_shape or "").strip():
        raise _BrokenRuleError(
            "E10004",
            "input_shape",
            f"{gear_flag} needs input_shape",
            "list every input, with -1 where the gears go",
        )
    if options.input_shape_range is not None:
        _check_range_flag(options.input_shape_range)
        return []
    text = options.input_shape
    if text is None:
        _check_all_known([], graph)
        return []
    if gear_flag:
        items = split_items(text)
        _check_gears(gear_flag, str(getattr(options, gear_flag)), items, options, soc)
        _check_names(items, graph)
        _check_ranks(items, graph, "E19999")
        _check_all_listed(gear_flag, items, graph)
        return []
    if "~" in text or "-1" in text:
        items = _check_range_text(text)
        _check_names(items, graph)
        _check_against_graph(items, graph)
        return []
    items = split_items(text)
    _check_static(items, text)
    _check_names(items, graph)
    _check_ranks(items, graph, "E19999")
    _check_all_known(items, graph)
    return _overridden(items, graph)


def _check_static(items: Sequence[ShapeItem], text: str) -> None:
    for item in items:
        if not item.name:
            raise _BrokenRuleError(
                "E10002",
                "input_shape",
                f"no input name before `:` in {text!r}",
                "name:dim,dim;name:dim,dim",
            )
        for dim in item.dims:
            _static_dim(item, dim)


def _static_dim(item: ShapeItem, dim: str) -> None:
    where = f"dim {dim!r} of {item.name}"
    if "." in dim:
        raise _BrokenRuleError(
            "E10002", "input_shape", f"{where} is not an integer", "use whole numbers"
        )
    sign, digits = (dim[:1], dim[1:]) if dim[:1] in "+-" and dim else ("", dim)
    if is_whole(digits[:1]) and not is_whole(digits):
        raise _BrokenRuleError(
            "E10002",
            "input_shape",
            f"{where} has letters after the number",
            "write the value of the symbol, or a range such as 1~512",
        )
    if not is_whole(digits):
        raise _BrokenRuleError(
            "E10014",
            "input_shape",
            f"{where} is not a number",
            "write the value of the symbol, or a range such as 1~512",
        )
    if int(digits) > _INT_MAX:
        raise _BrokenRuleError("E10013", "input_shape", f"{where} is out of range")
    if sign == "-" or int(digits) == 0:
        raise _BrokenRuleError(
            "E10011",
            "input_shape",
            f"{where} is not positive",
            "ATC takes dims of 1 and more; use 1~N for a dim that varies",
        )


def _check_range_text(text: str) -> list[ShapeItem]:
    items = split_items(text)
    named = [bool(item.name) for item in items]
    if any(named) and not all(named):
        raise _BrokenRuleError(
            "E10048",
            "input_shape",
            "some inputs are named and some are not",
            "name all inputs or none",
        )
    for item in items:
        for dim in item.dims:
            check_range_dim(dim, "input_shape")
    return items


def check_range_dim(dim: str, flag: str) -> None:
    """Check one dim of the range form: ``8``, ``-1`` or ``1~512``."""
    low, tilde, high = dim.partition("~")
    if dim == "-1" or (not tilde and is_whole(low)):
        return
    if not tilde or not is_whole(low) or not (is_whole(high) or high == "-1"):
        raise _BrokenRuleError(
            "E10048", flag, f"{dim!r} is no dim of a range", "use 8, -1 or 1~512"
        )
    if high != "-1" and int(low) > int(high):
        raise _BrokenRuleError("E10048", flag, f"the range {dim} is upside down", f"{high}~{low}")


def _check_range_flag(text: str) -> None:
    if not text.strip():
        raise _BrokenRuleError("E10004", "input_shape_range", "the value is empty", "drop it")
    for part in text.split(";"):
        if not part.strip():
            continue
        _, _, dims = part.rpartition(":")
        dims = dims.strip()
        if not (dims.startswith("[") and dims.endswith("]")):
            raise _BrokenRuleError(
                "E10048",
                "input_shape_range",
                f"{part!r} has no [dims]",
                "name:[1~8,3,-1]; better: drop it and put the range into input_shape",
            )
        for dim in filter(str.strip, dims[1:-1].split(",")):
            check_range_dim(dim.strip(), "input_shape_range")


def _check_gears(
    flag: str, text: str, items: Sequence[ShapeItem], options: AtcOptions, soc: str
) -> None:
    for item in items:
        if not item.name:
            raise _BrokenRuleError("E10002", "input_shape", "an input has no name", "name:dim,dim")
        if any("~" in dim for dim in item.dims):
            raise _BrokenRuleError(
                "E10040",
                "input_shape",
                f"{flag} does not go with a range (`~`)",
                "write -1 where the gears go",
            )
        for dim in item.dims:
            if dim != "-1":
                _static_dim(item, dim)
    holes = [
        (i, axis) for i, item in enumerate(items) for axis, d in enumerate(item.dims) if d == "-1"
    ]
    if not holes and flag != "dynamic_batch_size":
        raise _BrokenRuleError(
            "E10040" if flag == "dynamic_dims" else "E10019",
            "input_shape",
            f"{flag} is given but no dim is -1",
            "write -1 where the gears go",
        )
    if flag == "dynamic_batch_size":
        gears = _batch_gears(text, items, holes)
    elif flag == "dynamic_image_size":
        gears = _image_gears(text, items, options)
    else:
        gears = _dims_gears(text, len(holes), options)
    if len(gears) < 2:
        raise _BrokenRuleError(
            "E10035", flag, "only one gear", "give two or more, or a fixed shape"
        )
    if len(set(gears)) < len(gears):
        raise _BrokenRuleError(
            "E10039", flag, f"a gear appears twice in {text!r}", "drop the repetition"
        )
    limit = MAX_GEARS_950 if soc.startswith("Ascend950") else MAX_GEARS
    if len(gears) > limit:
        raise _BrokenRuleError(
            "E10036",
            flag,
            f"{len(gears)} gears, the documented maximum is {limit}",
            "use fewer gears or a range",
        )


def _batch_gears(
    text: str, items: Sequence[ShapeItem], holes: Sequence[tuple[int, int]]
) -> list[tuple[int, ...]]:
    if not all(is_whole(c) or c == "," for c in text) or not text.strip(","):
        raise _BrokenRuleError(
            "E10003", "dynamic_batch_size", f"{text!r} may hold digits and `,` only", "1,4,8"
        )
    for item in items:
        if not item.dims:
            raise _BrokenRuleError(
                "E10012",
                "input_shape",
                f"{item.name} is a scalar",
                "dynamic_batch_size needs a batch dim in every input; use dynamic_dims",
            )
    wrong = [(i, axis) for i, axis in holes if axis != 0]
    if wrong:
        raise _BrokenRuleError(
            "E10018",
            "input_shape",
            f"{items[wrong[0][0]].name} has -1 at axis {wrong[0][1]}",
            "with dynamic_batch_size only axis 0 may be -1; use dynamic_dims",
        )
    if not holes:
        raise _BrokenRuleError(
            "E10031", "input_shape", "no input has -1 at axis 0", "write -1 for the batch dim"
        )
    return [(int(word),) for word in text.split(",") if word]


def _image_gears(
    text: str, items: Sequence[ShapeItem], options: AtcOptions
) -> list[tuple[int, ...]]:
    if (options.input_format or "NCHW") not in ("NCHW", "NHWC"):
        raise _BrokenRuleError("E10003", "dynamic_image_size", "it needs input_format=NCHW")
    for item in items:
        axes = [axis for axis, dim in enumerate(item.dims) if dim == "-1"]
        if axes and (len(item.dims) != 4 or axes != [2, 3]):
            raise _BrokenRuleError(
                "E10019",
                "input_shape",
                f"{item.name} must be 4-D with -1 at H and W",
                "1,3,-1,-1, or use dynamic_dims",
            )
    gears = []
    for pair in text.split(";"):
        words = [w.strip() for w in pair.split(",")]
        if not pair.strip():
            continue
        if len(words) != 2 or not all(is_whole(w) for w in words):
            raise _BrokenRuleError(
                "E10020",
                "dynamic_image_size",
                f"{pair!r} is no height,width pair",
                "224,224;448,448",
            )
        gears.append(tuple(int(w) for w in words))
    return gears


def _dims_gears(text: str, holes: int, options: AtcOptions) -> list[tuple[int, ...]]:
    if not text.strip():
        raise _BrokenRuleError("E10058", "dynamic_dims", "the value is empty", "1,64;4,128")
    if options.insert_op_conf is not None:
        raise _BrokenRuleError(
            "E10001",
            "dynamic_dims",
            "it does not go with insert_op_conf (AIPP)",
            "drop AIPP, or use dynamic_batch_size or dynamic_image_size",
        )
    gears = []
    for part in text.split(";"):
        if not part.strip():
            continue
        words = [w.strip() for w in part.split(",")]
        if not all(is_whole(w) for w in words):
            raise _BrokenRuleError(
                "E10001", "dynamic_dims", f"{part!r} may hold digits only", "1,64;4,128"
            )
        gears.append(tuple(int(w) for w in words))
    if len({len(gear) for gear in gears}) > 1:
        raise _BrokenRuleError(
            "E10037",
            "dynamic_dims",
            "the gears differ in length",
            "give each gear one number for each -1",
        )
    if gears and len(gears[0]) != holes:
        raise _BrokenRuleError(
            "E10003",
            "dynamic_dims",
            f"each gear has {len(gears[0])} numbers, input_shape has {holes} times -1",
            "one number for each -1, in the order of input_shape",
        )
    return gears


def _check_names(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    if graph is None:
        return
    for item in items:
        if item.name and item.name not in graph:
            raise _BrokenRuleError(
                "E10016",
                "input_shape",
                f"the model has no input {item.name!r}",
                f"its inputs are {', '.join(graph)}",
            )


def _check_against_graph(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    """Check the range form against the model: a dim it fixes must lie inside."""
    if graph is None:
        return
    if not items[0].name and len(items) != len(graph):
        raise _BrokenRuleError(
            "E10048",
            "input_shape",
            f"{len(items)} shapes for {len(graph)} inputs",
            "one shape for each input",
        )
    _check_ranks(items, graph, "E10049")
    for name, axis, have, want in _fixed_dims(items, graph):
        if not _covers(want, have):
            raise _BrokenRuleError(
                "E10050",
                "input_shape",
                f"axis {axis} of {name} is fixed to {have} in the model, not {want}",
                f"write {have}, or export that axis as dynamic",
            )


def _check_ranks(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None, code: str
) -> None:
    """Check ranks; ATC names the fault in the range form only, elsewhere parsing just fails."""
    names = list(graph or ())
    for index, item in enumerate(items if graph else ()):
        name = item.name or names[index]
        rank = len(graph[name]) if graph else 0
        if rank != len(item.dims):
            raise _BrokenRuleError(
                code, "input_shape", f"{name} has rank {rank}, the shape has {len(item.dims)}"
            )


def _check_all_known(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    """Refuse a static compile that leaves an input of the model open."""
    named = {item.name for item in items}
    for name, dims in (graph or {}).items():
        if name not in named and not all(isinstance(size, int) for size in dims):
            raise _BrokenRuleError(
                "E10001",
                "input_shape",
                f"the dims of {name} are open in the model and it is not listed",
                f"--shape {name}={','.join(map(str, dims))} with numbers",
            )


def _check_all_listed(
    flag: str, items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> None:
    named = {item.name for item in items}
    missing = [name for name in graph or () if name not in named]
    if missing:
        raise _BrokenRuleError(
            "E10045",
            "input_shape",
            f"{flag} needs every input listed, {', '.join(missing)} is not",
            "list them all",
        )


def _overridden(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]] | None
) -> list[RuleBreak]:
    """Warn where a static shape replaces a size that the model fixes: ATC takes it silently."""
    return [
        RuleBreak(
            "",
            "input_shape",
            f"axis {axis} of {name} is fixed to {have} in the model, {want} replaces it",
            "shapes written into the model may not follow; export that axis as dynamic",
            "warning",
        )
        for name, axis, have, want in _fixed_dims(items, graph or {})
        if not _covers(want, have)
    ]


def _fixed_dims(
    items: Sequence[ShapeItem], graph: Mapping[str, Sequence[int | str]]
) -> Iterator[tuple[str, int, int, str]]:
    """Yield input, axis, size in the model and text of every dim that the model fixes."""
    names = list(graph)
    for index, item in enumerate(items if graph else ()):
        name = item.name or names[index]
        for axis, (have, want) in enumerate(zip(graph[name], item.dims, strict=True)):
            if isinstance(have, int):
                yield name, axis, have, want


def _covers(dim: str, value: int) -> bool:
    low, tilde, high = dim.partition("~")
    if dim == "-1":
        return True
    if not tilde:
        return int(low) == value
    return int(low) <= value and (high == "-1" or value <= int(high))
