"""``omfuse bench``: how long a model takes, alone or against another."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omfuse.cli import console
from omfuse.errors import NotAvailableError, UsageError

if TYPE_CHECKING:
    from omfuse.acl.bench import Subject
    from omfuse.session_protocol import Array, Session


def command(
    a: Annotated[str, typer.Argument(help="An .onnx or .om file.")],
    b: Annotated[str | None, typer.Argument(help="Another: measured in turn with A.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="NAME=FILE.npy; repeat it.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--random", min=0, help="Seed of realistic values for the other inputs.")
    ] = 0,
    dim: Annotated[
        list[str] | None, typer.Option("--dim", help="SYMBOL=SIZE for random inputs; repeat it.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="of .om files: sim or ascend; .onnx files run on host.")
    ] = None,
    index: Annotated[int, typer.Option(min=0, help=".om: number of the device.")] = 0,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before measuring.")] = 5,
    warmup_seconds: Annotated[float, typer.Option(min=0, help="Time before measuring.")] = 0.2,
    runs: Annotated[int, typer.Option(min=2, help="Measured runs, at least.")] = 20,
    seconds: Annotated[float, typer.Option(min=0, help="Measured time, at least.")] = 1.0,
    lowering: Annotated[
        str, typer.Option(help="host: how FlashAttention nodes run; auto chooses for each.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="host: threads inside an operator.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the distribution as a .png (extra `report`).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure A, and B in turn with it: percentiles, parts, stability, memory, the ratio.

    Example: omfuse bench original.om fused.om --device ascend
    """
    from omfuse.acl import bench
    from omfuse.cli import subjects
    from omfuse.host import feeding

    if plot is not None:
        _require_plotting(plot)
    arrays = {
        name: feeding.load_array(path)
        for name, path in feeding.split_pairs(given or [], "--input").items()
    }
    sizes = feeding.read_sizes(dim or [], "--dim")
    plan = bench.Plan(warmup, warmup_seconds, runs, seconds)
    measured: list[Subject] = []
    kernels: list[dict[str, str]] = []
    devices: list[str] = []
    feeds: dict[str, Array] = {}
    with ExitStack() as stack:
        for model in (a, *([] if b is None else [b])):
            used = "host" if Path(model).suffix.lower() == ".onnx" else device
            used = subjects.device_of(model, used)
            in_use = _memory_of(stack, used, index)
            before = in_use()
            with console.progress(f"loading {model}"):
                session = stack.enter_context(_open(model, used, index, lowering, threads, arrays))
                named = sizes if b is None else _known(session, sizes)
                # B runs the shapes of A, where it has a choice.
                named = {**feeding.sizes_of(session.inputs, feeds), **named}
                others = feeds
                feeds = subjects.feeds_for(session, model, arrays, named, seed)
                _require_same_shapes(others, feeds)
            devices.append(used)
            kernels.append(dict(session.kernels))
            measured.append(_subject(model, session, feeds, in_use, before))
            measured[-1].start()
        with console.progress("measuring"):
            bench.measure(measured, plan)
    compared = None
    if len(measured) == 2 and (devices[0] == "sim") == (devices[1] == "sim"):
        compared = bench.ratio(*measured)
    document: dict[str, Any] = {
        "schema": "omfuse.bench/1",
        "models": [
            {
                "model": subject.label,
                "device": used,
                "simulated": used == "sim",
                "kernels": which,
                **bench.summary(subject),
            }
            for subject, used, which in zip(measured, devices, kernels, strict=True)
        ],
        "ratio": compared,
        "note": subjects.timing_note(devices),
    }
    if plot is not None:
        _plot(plot, measured, devices)
    if json:
        console.print_json(document)
        return
    _show(document)
    if plot is not None:
        console.print_result(f"wrote {plot}")


def _open(
    model: str,
    device: str,
    index: int,
    lowering: str,
    threads: int | None,
    arrays: dict[str, Array],
) -> Session:
    from omfuse.session import open_session

    if device == "host":
        shapes = {name: array.shape for name, array in arrays.items()}
        return open_session(model, "host", lowering=lowering, threads=threads, input_shapes=shapes)
    return open_session(model, device, index=index)


def _known(session: Session, sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes that this one of two models has."""
    symbols = {dim for tensor in session.inputs for dim in tensor.shape}
    return {name: size for name, size in sizes.items() if name in symbols}


def _require_same_shapes(a: dict[str, Array], b: dict[str, Array]) -> None:
    """Refuse to compare two models that do not do the same work.

    Raises:
        UsageError: ``bad-shape``.
    """
    for name in a:
        if name in b and a[name].shape != b[name].shape:
            raise UsageError(
                "bad-shape",
                f"A runs input {name!r} with {list(a[name].shape)}, B with {list(b[name].shape)}",
                hint="give both one shape with --dim or --input; a static model takes its own only",
            )


def _subject(
    label: str,
    session: Session,
    feeds: dict[str, Array],
    in_use: Callable[[], int | None],
    before: int | None,
) -> Subject:
    from omfuse.acl.bench import Subject

    device: Any = session
    parts = dict if session.device == "host" else lambda: device.seconds
    return Subject(label, lambda: session.run(feeds), parts, in_use, before)


def _memory_of(stack: ExitStack, device: str, index: int) -> Callable[[], int | None]:
    """Return what tells the bytes in use: on the device, or by this process."""
    if device == "host":
        _load_runtime()
        return _resident
    from omfuse.acl.opening import watch_memory

    return stack.enter_context(watch_memory(device, index))


def _load_runtime() -> None:
    """Run a model of one node, so that what any model needs is not counted as the first one's."""
    from onnx import parser

    from omfuse.diff.inputs import generate_inputs
    from omfuse.host.session import HostSession

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> one (float[n, 8] x) => (float[n, 8] y) {'
        " y = Softmax(x) }"
    )
    with HostSession(model) as session:
        session.run(generate_inputs(model, 0))


def _resident() -> int | None:
    """Return the resident size of this process in bytes, None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _show(document: dict[str, Any]) -> None:
    columns = ("model", "device", "first", "p50", "p90", "p99", "min", "mean", "runs", "cv", "peak")
    rows = []
    for row in document["models"]:
        latency = row["latency"]
        peak = row["memory_peak"]
        rows.append(
            [
                row["model"],
                row["device"],
                _ms(row["first"]),
                *(_ms(latency[name]) for name in ("p50", "p90", "p99", "min", "mean")),
                latency["count"],
                f"{100 * latency['cv']:.1f} %",
                "-" if peak is None else f"{peak / 2**20:.1f} MiB",
            ]
        )
    console.print_table(columns, rows)
    parts = [
        [row["model"], *(_ms(row["parts"][name]["p50"]) for name in ("h2d", "compute", "d2h"))]
        for row in document["models"]
        if row["parts"]
    ]
    if parts:
        console.print_table(("model", "copy in, p50", "compute, p50", "copy out, p50"), parts)
    for row in document["models"]:
        for text in (*row["warnings"], *row["hints"]):
            console.print_result(f"{row['model']}: {text}")
    if document["ratio"]:
        ratio = document["ratio"]
        console.print_result(
            f"B is {ratio['value']:.3f}x as fast as A "
            f"(95 %: {ratio['low']:.3f} to {ratio['high']:.3f}), measured in turn"
        )
    if document["note"]:
        console.print_result(document["note"])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _require_plotting(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError("bad-argument", f"--plot {path}", hint="name a .png, .svg or .pdf")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NotAvailableError(
            "no-matplotlib", "--plot needs matplotlib", hint="pip install 'omfuse[report]'"
        ) from None


def _plot(path: Path, measured: list[Subject], devices: list[str]) -> None:
    from matplotlib.figure import Figure

    from omfuse.errors import OutputError

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for subject, device in zip(measured, devices, strict=True):
        times = sorted(1e3 * value for value in subject.seconds)
        share = [100 * (place + 1) / len(times) for place in range(len(times))]
        simulated = ", simulated" if device == "sim" else ""
        axes.plot(times, share, label=f"{subject.label} ({device}{simulated})", drawstyle="steps")
    axes.set_xlabel("milliseconds for one run")
    axes.set_ylabel("runs that took no longer, %")
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=120)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError("cannot-write", str(error), str(path), "choose another place") from error
