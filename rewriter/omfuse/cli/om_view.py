"""How ``omfuse inspect`` shows a compiled model to people."""

from __future__ import annotations

from typing import Any

from omfuse.cli import console

_MOST_TYPES = 12
_MOST_GEARS = 8


def show(found: dict[str, Any]) -> None:
    """Print the description of an ``.om``; see ``docs/om.md`` for its fields."""
    mark = "   SIMULATED, runs on no chip" if found["simulated"] else ""
    soc = found.get("soc") or "chip not stated"
    console.print_result(f"{found['name']}   {_size(found['bytes'])}   {soc}{mark}")
    if "operators" not in found:
        _partitions(found)
        return
    _facts(found)
    for side in ("inputs", "outputs"):
        for tensor in found[side]:
            console.print_result(f"  {side[:-1]:<7} {_tensor(tensor)}")
    if found["gears"]:
        _gears(found["gears"])
    _attention(found["attention"])
    types = list(found["operators"].items())
    shown = ", ".join(f"{name} {count}" for name, count in types[:_MOST_TYPES])
    more = f", and {len(types) - _MOST_TYPES} more types" if len(types) > _MOST_TYPES else ""
    console.print_result(f"operators   {shown}{more}")
    _partitions(found)


def _facts(found: dict[str, Any]) -> None:
    versions = found["cann"] or "not stated"
    if found["atc_version"] and found["atc_version"] != found["cann"]:
        versions += f" (packages {found['atc_version']})"
    memory, kernels = found["memory"], found["kernels"]
    lines = [
        ("CANN", versions),
        ("host", found["host"]),
        ("shapes", "unknown before the run" if found["unknown_shape"] else "known"),
        ("memory", f"{_size(memory['work_bytes'])} work, {_size(memory['weight_bytes'])} weights"),
        ("tasks", ", ".join(f"{name} {count}" for name, count in found["tasks"].items())),
        ("kernels", f"{kernels['count']} in {_size(kernels['bytes'])}"),
        ("libraries", ", ".join(found["libraries"])),
        ("command", found["command"]),
    ]
    for name, text in lines:
        if text:
            console.print_result(f"{name:<11} {text}")


def _tensor(tensor: dict[str, Any]) -> str:
    text = f"{tensor['name']}  {tensor['dtype']} {tensor['shape']}  {tensor['format']}"
    if tensor["bytes"]:
        text += f"  {_size(tensor['bytes'])}"
    for axis, (low, high) in enumerate(tensor.get("ranges", ())):
        if low != high:
            text += f"  dim {axis}: {low}~{high if high >= 0 else ''}"
    return text


def _gears(gears: dict[str, Any]) -> None:
    values = gears["values"]
    shown = "; ".join(",".join(map(str, row)) for row in values[:_MOST_GEARS])
    more = f"; and {len(values) - _MOST_GEARS} more" if len(values) > _MOST_GEARS else ""
    order = f" in the order of {', '.join(gears['order'])}" if gears["kind"] == "dims" else ""
    console.print_result(f"gears       {gears['kind']}: {shown}{more}{order}")


def _attention(blocks: list[dict[str, Any]]) -> None:
    if not blocks:
        console.print_result("no FlashAttention in this model")
        return
    rows = []
    for block in blocks:
        task = "" if block["task"] is None else f"{block['task']}"
        if block["copies"] > 1:
            more = block["copies"] - 1
            task += f" and {more} more gear{'s' if more > 1 else ''}"
        kernel = block["kernel"] or "none"
        if not block["kernel_stored"]:
            kernel += " (not in the file)"
        state = "yes" if block["complete"] else "NO"
        rows.append((", ".join(block["origin"]), block["type"], state, _short(kernel), task))
    console.print_table(("attention, from ONNX node", "operator", "there", "kernel", "task"), rows)


def _partitions(found: dict[str, Any]) -> None:
    parts = ", ".join(f"{part['name']} {_size(part['bytes'])}" for part in found["partitions"])
    console.print_result(f"{'partitions':<11} {parts}")


def _short(kernel: str) -> str:
    return kernel if len(kernel) <= 44 else f"{kernel[:32]}...{kernel[-8:]}"


def _size(count: int | None) -> str:
    if count is None:
        return "?"
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
