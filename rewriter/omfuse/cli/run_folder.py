"""The folder form of ``omfuse run``: many items, several devices, go on where it stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import typer

from omfuse.acl import batches
from omfuse.acl.pool import map_sessions
from omfuse.cli import console
from omfuse.errors import ModelError, OmfuseError, UsageError

_SHOWN = 20
_SECONDS_BETWEEN_LINES = 10.0


def run(
    model: str,
    device: str,
    numbers: Sequence[int],
    options: Mapping[str, Any],
    given: Sequence[str],
    save: Path | None,
    *,
    again: bool,
    ray: bool,
    json: bool,
) -> None:
    """Run all items of the folders in ``given``; results are written once, one file an item.

    An item that does not fit the model is reported and the others go on; a failing device ends
    the run, and the next one continues.

    Raises:
        UsageError: what is wrong with the folders; ``no-output-folder``.
        OmfuseError: what a device says.
        Exit: code 2 when items failed.
    """
    if save is None:
        raise UsageError(
            "no-output-folder",
            "the results of many items need a folder",
            hint="add --save-outputs FOLDER; run the same line again to go on after a break",
        )
    items, fixed = read_items(given)
    todo, done = (list(items), []) if again else batches.split_done(save, items)
    batches.split_done(save, items)  # names must not clash in any case
    started = time.perf_counter()
    if not todo:
        failed: dict[str, OmfuseError] = {}
    elif ray:
        from omfuse.acl.ray_run import run_on_ray

        with _counter(len(todo)) as tick:
            failed = run_on_ray(model, device, options, todo, fixed, save, tick)
    else:
        failed = _run_here(model, device, numbers, options, todo, fixed, save)
    document = {
        "schema": "omfuse.run/1",
        "model": model,
        "device": device,
        "simulated": device == "sim",
        "items": len(items),
        "done": len(todo) - len(failed),
        "skipped": len(done),
        "failed": [{"item": name, **error.as_dict()} for name, error in sorted(failed.items())],
        "folder": str(save),
        "seconds": time.perf_counter() - started,
    }
    if json:
        console.print_json(document)
    else:
        for name in sorted(failed)[:_SHOWN]:
            console.print_line(f"{name}: {failed[name].message}")
        text = f"{document['done']} items run on {device}, {document['skipped']} were there"
        text += f", {len(failed)} failed" if failed else ""
        console.print_result(f"{text}; results in {save}")
    if failed:
        raise typer.Exit(2)


def read_items(given: Sequence[str]) -> tuple[list[batches.Item], dict[str, Any]]:
    """Split ``--input`` values into items and arrays that all items share.

    Raises:
        UsageError: ``bad-argument`` and what the folders lack.
    """
    from omfuse.host import feeding

    whole = [Path(text) for text in given if Path(text).is_dir()]
    pairs = feeding.split_pairs([t for t in given if not Path(t).is_dir()], "--input")
    folders = {name: Path(path) for name, path in pairs.items() if Path(path).is_dir()}
    if len(whole) > 1 or (whole and folders):
        raise UsageError(
            "bad-argument",
            "several kinds of folders",
            hint="one FOLDER of .npz, or NAME=FOLDER of .npy for each input",
        )
    fixed = {n: feeding.load_array(path) for n, path in pairs.items() if n not in folders}
    items = batches.items_of_folder(whole[0]) if whole else batches.items_of_folders(folders)
    return items, fixed


def _run_here(
    model: str,
    device: str,
    numbers: Sequence[int],
    options: Mapping[str, Any],
    todo: Sequence[batches.Item],
    fixed: Mapping[str, Any],
    save: Path,
) -> dict[str, OmfuseError]:
    from omfuse.session import open_session

    failed: dict[str, OmfuseError] = {}
    with ExitStack() as stack:
        indexes: Sequence[int | None] = [None] if device == "host" else numbers
        sessions = []
        with console.progress(f"loading {model}"):
            for index in indexes:
                more = {} if index is None else {"index": index}
                sessions.append(stack.enter_context(open_session(model, device, **options, **more)))
        runners = [_runner(session.run, fixed, save) for session in sessions]
        tick = stack.enter_context(_counter(len(todo)))
        for position, problem in map_sessions(runners, todo):
            if problem is not None:
                failed[todo[position].name] = problem
            tick(1)
    return failed


def _runner(
    run_once: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    fixed: Mapping[str, Any],
    save: Path,
) -> Callable[[batches.Item], OmfuseError | None]:
    def work(item: batches.Item) -> OmfuseError | None:
        try:
            outputs = run_once(item.load(fixed))
        except (UsageError, ModelError) as error:
            return error  # of this item alone; the device is well
        batches.write_result(batches.result_path(save, item), outputs)
        return None

    return work


@contextmanager
def _counter(total: int) -> Iterator[Callable[[int], None]]:
    """Show progress: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("items"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("items", total=total)
            yield lambda count: bar.advance(task, count)
        return
    state = {"done": 0, "next": time.monotonic() + _SECONDS_BETWEEN_LINES}

    def tick(count: int) -> None:
        state["done"] += count
        if time.monotonic() >= state["next"]:
            state["next"] = time.monotonic() + _SECONDS_BETWEEN_LINES
            console.print_line(f"{state['done']} of {total} items")

    yield tick
