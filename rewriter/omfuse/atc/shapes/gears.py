"""From gears over several dims to the one ATC flag that can hold them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from omfuse.atc.shapes.shape_plan import ShapePlan, input_shape_text
from omfuse.atc.shapes.wishes import Dim, ShapeWishes, Slot


def plan_gears(
    inputs: Mapping[str, Sequence[Dim | None]],
    shapes: Mapping[str, Sequence[str | None]],
    asked: ShapeWishes,
    aipp: bool,
) -> ShapePlan:
    """Choose the flag for gears; groups that are asked for apart are combined each with each."""
    combos: list[dict[Slot, int]] = []
    for choice in itertools.product(*(gears for _, gears in asked.groups)):
        values: dict[Slot, int] = {}
        for (dims, _), gear in zip(asked.groups, choice, strict=True):
            for slots, number in zip(dims, gear, strict=True):
                values.update(dict.fromkeys(slots, number))
        if values not in combos:
            combos.append(values)
    holes = [
        (name, axis) for name, dims in shapes.items() for axis, d in enumerate(dims) if d is None
    ]
    text = input_shape_text({n: [d or "-1" for d in dims] for n, dims in shapes.items()})
    whole = [
        {
            name: tuple(int(d) if d else values[(name, axis)] for axis, d in enumerate(dims))
            for name, dims in shapes.items()
        }
        for values in combos
    ]
    biggest = max(whole, key=lambda gear: sum(_volume(shape) for shape in gear.values()))
    concrete: dict[str, tuple[int | None, ...]] = {**biggest}
    if len(combos) == 1:
        only = {name: [str(d) for d in shape] for name, shape in whole[0].items()}
        return ShapePlan(
            "static",
            {"input_shape": input_shape_text(only)},
            ["only one gear: input_shape, a static model"],
            concrete,
        )
    flags = {"input_shape": text}
    same = all(len({values[slot] for slot in holes}) == 1 for values in combos)
    rank0 = [name for name, dims in inputs.items() if not dims]
    images = {name for name, _ in holes}
    if same and all(axis == 0 for _, axis in holes) and not rank0:
        flags["dynamic_batch_size"] = ",".join(str(values[holes[0]]) for values in combos)
        kind = "batch-gears"
        reason = "only axis 0 varies, and together: dynamic_batch_size"
    elif (
        aipp
        and len(images) == 1
        and [a for _, a in holes] == [2, 3]
        and len(shapes[holes[0][0]]) == 4
    ):
        flags["dynamic_image_size"] = ";".join(
            f"{values[holes[0]]},{values[holes[1]]}" for values in combos
        )
        flags["input_format"] = "NCHW"
        kind, reason = (
            "image-gears",
            "H and W vary and AIPP excludes dynamic_dims: dynamic_image_size",
        )
    else:
        flags["dynamic_dims"] = ";".join(
            ",".join(str(values[slot]) for slot in holes) for values in combos
        )
        flags["input_format"] = "ND"
        kind = "dims-gears"
        count = "1 dim varies" if len(holes) == 1 else f"{len(holes)} dims vary"
        why = "not only axis 0"
        if same and all(axis == 0 for _, axis in holes):
            why = f"and {rank0[0]} is a scalar, which dynamic_batch_size refuses (E10012)"
        elif all(axis == 0 for _, axis in holes):
            why = "not all alike"
        reason = (
            f"{count}, {why}: dynamic_dims, one number for each -1 in the order of input_shape "
            "(needs input_format=ND)"
        )
    reasons = [reason, f"{len(combos)} gears; each is built, so build time grows with their number"]
    if len(asked.groups) > 1:
        reasons.append("separate dims were combined each with each; `a,b=1,64;4,128` goes in step")
    return ShapePlan(kind, flags, reasons, concrete, whole)


def _volume(shape: Sequence[int]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total
