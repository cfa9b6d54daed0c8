"""Pictures for the report: error histogram, errors along depth, heat map of the worst block."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from omfuse.session_protocol import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from omfuse.diff.report import DiffReport

_SIDE = 256  # cells of a heat map along one axis
_GOOD, _BAD, _LIMIT = "#2a6f97", "#c1121f", "#6c757d"


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, figure.subplots()


def as_data_uri(figure: Figure) -> str:
    """Return a figure as an embeddable PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def error_histogram(golden: Array, other: Array, limit: float | None, name: str) -> Figure:
    """Draw how many elements of one output are off by how much, on a log scale."""
    error = np.abs(other.astype(np.float64) - golden.astype(np.float64)).reshape(-1)
    error = error[np.isfinite(error)]
    figure, axes = _figure(7.2, 3.2)
    floor = max(float(error.max(initial=0.0)) * 1e-8, 1e-30)
    top = max(float(error.max(initial=0.0)), limit or 0.0, floor * 10)
    bins = np.geomspace(floor, top * 1.5, 60)
    axes.hist(np.clip(error, floor, None), bins=bins, color=_GOOD)
    axes.set(xscale="log", yscale="symlog", xlabel="absolute error", ylabel="elements")
    axes.set_title(f"{name}: {error.size} elements, {(error == 0).sum()} exact", fontsize=10)
    if limit:
        axes.axvline(limit, color=_LIMIT, linestyle="--", label=f"limit {limit:.3g}")
        axes.legend(loc="upper left", fontsize=8)
    return figure


def errors_along_depth(report: DiffReport) -> Figure:
    """Draw each block's error over its limit, alone and in the full run, in model order."""
    figure, axes = _figure(7.2, 3.4)
    for label, marker, pick in (
        ("alone, on golden inputs", "o", "local"),
        ("in the full run", "x", "accumulated"),
    ):
        points = [
            (number, max(min(getattr(block, pick).ratio, 1e12), 1e-4))
            for number, block in enumerate(report.blocks)
            if getattr(block, pick) is not None
        ]
        if points:
            color = _GOOD if pick == "local" else _BAD
            axes.plot(*zip(*points, strict=True), marker, label=label, color=color, mfc="none")
    axes.axhline(1.0, color=_LIMIT, linestyle="--", label="limit")
    axes.set(yscale="log", ylabel="error / limit", xlabel="block, in model order")
    names = [block.name for block in report.blocks]
    if len(names) <= 16:
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right", fontsize=7)
    axes.legend(fontsize=8)
    return figure


def distance_to_limit(ratios: dict[str, dict[str, float]]) -> Figure:
    """Draw error over limit for each output, one row of bars a side (side -> output -> ratio)."""
    outputs = list(dict.fromkeys(name for side in ratios.values() for name in side))[:24]
    height = 1.2 + 0.22 * len(outputs) * len(ratios)
    figure, axes = _figure(9.6, min(height, 12.0))
    step = 0.8 / max(len(ratios), 1)
    finite = [r for side in ratios.values() for r in side.values() if 0 < r < float("inf")]
    floor = min([*finite, 1e-3]) / 2
    for index, (side, found) in enumerate(ratios.items()):
        at = [row + index * step for row in range(len(outputs))]
        values = [max(min(found.get(name, 0.0), 1e6), floor) for name in outputs]
        axes.barh(at, values, height=step * 0.9, label=side, left=0)
    axes.axvline(1.0, color=_LIMIT, linestyle="--", label="limit")
    axes.set_yticks([row + 0.4 - step / 2 for row in range(len(outputs))], outputs, fontsize=8)
    axes.set(xscale="log", xlabel="error over its limit")
    axes.set_xlim(left=floor)
    axes.invert_yaxis()
    axes.legend(loc="best", fontsize=8)
    return figure


def heat_map(error: Array, golden: Array, name: str) -> Figure:
    """Draw the absolute error of a tensor: rows are all leading axes, columns the last one."""
    wide = np.abs(error.astype(np.float64))
    wide = np.where(np.isfinite(wide), wide, np.nanmax(np.abs(golden.astype(np.float64))))
    table = shrink(wide.reshape(-1, wide.shape[-1] if wide.ndim else 1))
    figure, axes = _figure(7.2, 4.4)
    image = axes.imshow(table, aspect="auto", cmap="inferno", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="largest absolute error in a cell")
    axes.set_title(f"{name} {list(error.shape)}", fontsize=10)
    axes.set(xlabel="last axis", ylabel="rows (all leading axes)")
    rows = int(np.prod(error.shape[:-1], dtype=np.int64)) if error.ndim else 1
    step = rows / table.shape[0]
    axes.yaxis.set_major_formatter(lambda value, _: f"{int(value * step)}")
    return figure


def shrink(table: Array, side: int = _SIDE) -> Array:
    """Keep the largest value of each cell, so that one wrong row stays visible."""
    for axis in (0, 1):
        size = table.shape[axis]
        if size > side:
            edges = np.linspace(0, size, side, endpoint=False).astype(int)
            table = np.maximum.reduceat(table, edges, axis=axis)
    return table
