"""The rules of gears: dynamic_batch_size, dynamic_image_size, dynamic_dims.

Written from graph-engine 9.2 ``multi_batch_options.cc``; the codes are those with which ATC stops.
"""

from __future__ import annotations

from collections.abc import Sequence

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.problem import BrokenRuleError, is_whole
from omfuse.atc.options.shape_text import ShapeItem, static_dim

MAX_GEARS = 100  # documented for all parts but Ascend950, where it is 256
MAX_GEARS_950 = 256


def check_gears(
    flag: str, text: str, items: Sequence[ShapeItem], options: AtcOptions, soc: str
) -> None:
    """Check the gears of ``flag`` and the dims of ``items`` they fill; raise the first break."""
    for item in items:
        if not item.name:
            raise BrokenRuleError("E10002", "input_shape", "an input has no name", "name:dim,dim")
        if any("~" in dim for dim in item.dims):
            raise BrokenRuleError(
                "E10040",
                "input_shape",
                f"{flag} does not go with a range (`~`)",
                "write -1 where the gears go",
            )
        for dim in item.dims:
            if dim != "-1":
                static_dim(item, dim)
    holes = [
        (i, axis) for i, item in enumerate(items) for axis, d in enumerate(item.dims) if d == "-1"
    ]
    if not holes and flag != "dynamic_batch_size":
        raise BrokenRuleError(
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
        raise BrokenRuleError("E10035", flag, "only one gear", "give two or more, or a fixed shape")
    if len(set(gears)) < len(gears):
        raise BrokenRuleError(
            "E10039", flag, f"a gear appears twice in {text!r}", "drop the repetition"
        )
    limit = MAX_GEARS_950 if soc.startswith("Ascend950") else MAX_GEARS
    if len(gears) > limit:
        raise BrokenRuleError(
            "E10036",
            flag,
            f"{len(gears)} gears, the documented maximum is {limit}",
            "use fewer gears or a range",
        )


def _batch_gears(
    text: str, items: Sequence[ShapeItem], holes: Sequence[tuple[int, int]]
) -> list[tuple[int, ...]]:
    if not all(is_whole(c) or c == "," for c in text) or not text.strip(","):
        raise BrokenRuleError(
            "E10003", "dynamic_batch_size", f"{text!r} may hold digits and `,` only", "1,4,8"
        )
    for item in items:
        if not item.dims:
            raise BrokenRuleError(
                "E10012",
                "input_shape",
                f"{item.name} is a scalar",
                "dynamic_batch_size needs a batch dim in every input; use dynamic_dims",
            )
    wrong = [(i, axis) for i, axis in holes if axis != 0]
    if wrong:
        raise BrokenRuleError(
            "E10018",
            "input_shape",
            f"{items[wrong[0][0]].name} has -1 at axis {wrong[0][1]}",
            "with dynamic_batch_size only axis 0 may be -1; use dynamic_dims",
        )
    if not holes:
        raise BrokenRuleError(
            "E10031", "input_shape", "no input has -1 at axis 0", "write -1 for the batch dim"
        )
    return [(int(word),) for word in text.split(",") if word]


def _image_gears(
    text: str, items: Sequence[ShapeItem], options: AtcOptions
) -> list[tuple[int, ...]]:
    if (options.input_format or "NCHW") not in ("NCHW", "NHWC"):
        raise BrokenRuleError("E10003", "dynamic_image_size", "it needs input_format=NCHW")
    for item in items:
        axes = [axis for axis, dim in enumerate(item.dims) if dim == "-1"]
        if axes and (len(item.dims) != 4 or axes != [2, 3]):
            raise BrokenRuleError(
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
            raise BrokenRuleError(
                "E10020",
                "dynamic_image_size",
                f"{pair!r} is no height,width pair",
                "224,224;448,448",
            )
        gears.append(tuple(int(w) for w in words))
    return gears


def _dims_gears(text: str, holes: int, options: AtcOptions) -> list[tuple[int, ...]]:
    if not text.strip():
        raise BrokenRuleError("E10058", "dynamic_dims", "the value is empty", "1,64;4,128")
    if options.insert_op_conf is not None:
        raise BrokenRuleError(
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
            raise BrokenRuleError(
                "E10001", "dynamic_dims", f"{part!r} may hold digits only", "1,64;4,128"
            )
        gears.append(tuple(int(w) for w in words))
    if len({len(gear) for gear in gears}) > 1:
        raise BrokenRuleError(
            "E10037",
            "dynamic_dims",
            "the gears differ in length",
            "give each gear one number for each -1",
        )
    if gears and len(gears[0]) != holes:
        raise BrokenRuleError(
            "E10003",
            "dynamic_dims",
            f"each gear has {len(gears[0])} numbers, input_shape has {holes} times -1",
            "one number for each -1, in the order of input_shape",
        )
    return gears
