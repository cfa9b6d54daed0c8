"""``omfuse run``: run a model once, many times, or over a folder of inputs."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console
from omfuse.errors import UsageError

if TYPE_CHECKING:
    from omfuse.session_protocol import Session


def command(
    model: Annotated[str, typer.Argument(help="An .onnx or .om file.")],
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="NAME=FILE.npy, repeat it; for many runs NAME=FOLDER of .npy, or FOLDER of .npz.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--random", min=0, help="Seed: realistic values for the inputs not given."),
    ] = None,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", help="SYMBOL=SIZE for random inputs; repeat it.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save-outputs",
            help="FILE.npz, or a folder: one .npy an output, or one .npz an item of a folder.",
        ),
    ] = None,
    loop: Annotated[int, typer.Option(min=1, help="Number of timed runs.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="host (.onnx, the default), sim or ascend (.om).")
    ] = None,
    devices: Annotated[
        str, typer.Option(help=".om: numbers of the devices, such as 0-3; folders use all.")
    ] = "0",
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help=".om: seconds that a run may take.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Folders: run items whose result is there already.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Folders: spread over a Ray cluster (extra `ray`).")
    ] = False,
    lowering: Annotated[
        str, typer.Option(help="host: how FlashAttention nodes run; auto chooses for each.")
    ] = "auto",
    kernel: Annotated[
        str,
        typer.Option(
            help="host: cpu, or ascendc / ascendc-310p, the Ascend C kernel emulated (slow)."
        ),
    ] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="host: threads inside an operator.")
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Survive a crash of onnxruntime or of the device.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run MODEL and summarise its outputs, its time and what computed each attention.

    Example: omfuse run fused.onnx --random 0 --dim batch=1
    """
    from omfuse.cli import subjects
    from omfuse.host import feeding

    used = subjects.device_of(model, device)
    numbers = subjects.parse_devices(devices)
    options: dict[str, Any] = {"isolated": isolated}
    if used == "host":
        options |= {"lowering": lowering, "threads": threads, "kernel": kernel}
    else:
        options["timeout"] = timeout
    if any(_is_folder(text) for text in given or []):
        from omfuse.cli import run_folder

        if seed is not None or dim or loop != 1:
            raise UsageError(
                "bad-argument",
                "--random, --dim and --loop do not go with a folder of inputs",
                hint="a folder gives all inputs, and each item runs once",
            )
        run_folder.run(
            model, used, numbers, options, given or [], save, again=again, ray=ray, json=json
        )
        return
    if ray:
        raise UsageError("bad-argument", "--ray without a folder", hint="--input FOLDER")
    arrays = {
        name: feeding.load_array(path)
        for name, path in feeding.split_pairs(given or [], "--input").items()
    }
    if used == "host":
        options["input_shapes"] = {name: array.shape for name, array in arrays.items()}
    else:
        options["index"] = numbers[0]
    started = time.perf_counter()
    with console.progress(f"loading {model}"):
        session = _open(model, used, options)
    loaded = time.perf_counter() - started
    with session:
        feeds = arrays
        if seed is not None:
            sizes = feeding.read_sizes(dim or [], "--dim")
            with console.progress("choosing inputs"):
                feeds = subjects.feeds_for(session, model, arrays, sizes, seed)
        seconds = []
        with console.progress(f"running {model}"):
            for _ in range(loop):
                started = time.perf_counter()
                outputs = session.run(feeds)
                seconds.append(time.perf_counter() - started)
        kernels = dict(session.kernels)
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
    document = {
        "schema": "omfuse.run/1",
        "model": model,
        "device": used,
        "simulated": used == "sim",
        "kernels": kernels,
        "inputs": [
            {"name": n, "dtype": a.dtype.name, "shape": list(a.shape)} for n, a in feeds.items()
        ],
        "outputs": summary,
        "loop": loop,
        "seconds": times,
    }
    if json:
        console.print_json(document)
    else:
        _show(document, subjects.timing_note([used]))


def _is_folder(text: str) -> bool:
    name, equals, rest = text.rpartition("=")
    return Path(text).is_dir() or bool(equals and name and Path(rest).is_dir())


def _open(model: str, device: str, options: dict[str, Any]) -> Session:
    from omfuse.session import open_session

    return open_session(model, device, **options)


def _show(document: dict[str, Any], note: str | None) -> None:
    columns = ("output", "dtype", "shape", "min", "mean", "max", "nonfinite")
    rows = [
        [_cell(row[c if c != "output" else "name"]) for c in columns] for row in document["outputs"]
    ]
    console.print_table(columns, rows)
    for kernel, count in Counter(document["kernels"].values()).items():
        console.print_result(f"{count} FlashAttention by {kernel}")
    times, loop = document["seconds"], document["loop"]
    timing = f"{1e3 * times['median']:.3f} ms on {document['device']}"
    if loop > 1:
        timing += f", median of {loop} (min {1e3 * times['min']:.3f}, max {1e3 * times['max']:.3f})"
    console.print_result(timing)
    if note:
        console.print_result(note)
    for file in dict.fromkeys(row["file"] for row in document["outputs"] if row["file"]):
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
