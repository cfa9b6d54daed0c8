"""``omfuse run``: run a model once or many times and show what came out."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from omfuse.cli import console


def command(
    model: Annotated[str, typer.Argument(help="An .onnx file.")],
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="NAME=FILE.npy; repeat it.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--random",
            help="Seed for the inputs that are not given: floats N(0, 1), integers 0 or 1, "
            "masks all kept.",
        ),
    ] = None,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", help="SYMBOL=SIZE for random inputs; repeat it.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option("--save-outputs", help="Folder for one .npy an output.")
    ] = None,
    loop: Annotated[int, typer.Option(min=1, help="Number of timed runs.")] = 1,
    device: Annotated[str, typer.Option(help="host, sim or ascend.")] = "host",
    lowering: Annotated[
        str, typer.Option(help="host: how FlashAttention nodes run; auto chooses for each.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="host: threads inside an operator.")
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="host: survive a crash of onnxruntime.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run MODEL and summarise its outputs, its time and what computed each attention."""
    from omfuse.host import feeding
    from omfuse.session import open_session

    arrays = {
        name: feeding.load_array(path)
        for name, path in feeding.split_pairs(given or [], "--input").items()
    }
    dims = feeding.read_sizes(dim or [], "--dim")
    options: dict[str, Any] = {}
    if device == "host":
        options = {"lowering": lowering, "threads": threads, "isolated": isolated}
        options["input_shapes"] = {name: array.shape for name, array in arrays.items()}
    started = time.perf_counter()
    with console.progress(f"loading {model}"):
        session = open_session(model, device, **options)
    loaded = time.perf_counter() - started
    with session:
        feeds = arrays
        if seed is not None:
            from omfuse.diff.inputs import plan_inputs, settle
            from omfuse.graph.model_io import load_model

            sizes = {**feeding.sizes_of(session.inputs, arrays), **dims}
            plan = plan_inputs(load_model(model), sizes)
            feeds = settle(plan, session.run, sizes, seed).make(seed) | arrays
        seconds = []
        with console.progress(f"running {model}"):
            for _ in range(loop):
                started = time.perf_counter()
                outputs = session.run(feeds)
                seconds.append(time.perf_counter() - started)
        kernels, used = dict(session.kernels), session.device
    files = {} if save is None else feeding.save_outputs(save, outputs)
    summary = [
        {**summarise(name, array), "file": files.get(name)} for name, array in outputs.items()
    ]
    times = {
        "load": loaded,
        "first": seconds[0],
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
    }
    if json:
        console.print_json(
            {
                "schema": "omfuse.run/1",
                "model": model,
                "device": used,
                "kernels": kernels,
                "inputs": [
                    {"name": n, "dtype": a.dtype.name, "shape": list(a.shape)}
                    for n, a in feeds.items()
                ],
                "outputs": summary,
                "loop": loop,
                "seconds": times,
            }
        )
        return
    columns = ("output", "dtype", "shape", "min", "mean", "max", "nonfinite")
    console.print_table(
        columns, [[_cell(row[c if c != "output" else "name"]) for c in columns] for row in summary]
    )
    for kernel, count in Counter(kernels.values()).items():
        console.print_result(f"{count} FlashAttention by {kernel}")
    timing = f"{1e3 * times['median']:.3f} ms on {used}"
    if loop > 1:
        timing += f", median of {loop} (min {1e3 * times['min']:.3f}, max {1e3 * times['max']:.3f})"
    console.print_result(timing)
    for file in files.values():
        console.print_result(f"wrote {file}")


def summarise(name: str, array: Any) -> dict[str, Any]:
    """Describe an output: dtype, shape, and over its finite values min, mean and max."""
    import numpy as np

    row: dict[str, Any] = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    row |= {"min": None, "mean": None, "max": None, "nonfinite": 0}
    if array.dtype == object:
        return row
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    row["nonfinite"] = int(values.size - finite.size)
    if finite.size:
        row |= {"min": float(finite.min()), "mean": float(finite.mean())}
        row["max"] = float(finite.max())
    return row


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
