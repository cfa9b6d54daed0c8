"""Spread the items of a folder over a Ray cluster: one session on each NPU, on any host.

Ray Data keeps a pool of actors, each with one session, starts lost ones again and gives their
items to others.  Results go to one folder that all hosts share, each under its own name, whole or
not at all: an item that runs twice leaves one result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omfuse.acl import batches
from omfuse.errors import (
    DeviceError,
    ModelError,
    NotAvailableError,
    OmfuseError,
    ToolchainError,
    UsageError,
)

NPU = "NPU"  # what Ray calls the resource


class _Actor:
    """One session; called with one row an item.

    What is wrong travels in the row: Ray would wrap an exception, and end all actors with it.
    """

    def __init__(
        self, model: str, device: str, options: Mapping[str, Any], fixed: Any, folder: str
    ) -> None:
        self._fixed, self._folder = fixed, Path(folder)
        # Ray shows each actor its own NPU alone, as number 0.
        more = {} if device == "host" else {"index": 0}
        self._arguments = (model, device), {**options, **more}
        self._session: Any = None

    def _opened(self) -> Any:
        from omfuse.session import open_session

        if self._session is None:
            named, options = self._arguments
            self._session = open_session(*named, **options)
        return self._session

    def _do(self, item: batches.Item) -> None:
        session = self._opened()
        feeds = item.load(self._fixed)
        try:
            outputs = session.run(feeds)
        except (DeviceError, ToolchainError):
            # The session is of no use any more; the device may be, so the item gets a second try.
            self._close()
            outputs = self._opened().run(feeds)
        batches.write_result(batches.result_path(self._folder, item), outputs)

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = batches.Item(row["name"], {n: Path(p) for n, p in row["files"].items()})
        try:
            self._do(item)
        except OmfuseError as error:
            alone = self._session is not None and isinstance(error, (UsageError, ModelError))
            if not alone:
                self._close()
            return {
                "name": item.name,
                "error": {"exit": error.exit_code, **error.as_dict()},
                "stop": not alone,
            }
        return {"name": item.name, "error": None, "stop": False}


def run_on_ray(
    model: str,
    device: str,
    options: Mapping[str, Any],
    items: Sequence[batches.Item],
    fixed: Mapping[str, Any],
    folder: Path,
    tick: Callable[[int], None],
) -> dict[str, OmfuseError]:
    """Run items on a Ray cluster; joins the one of ``RAY_ADDRESS``, else starts one here.

    Args:
        model: path that all hosts can read.
        device: ``ascend``: one actor for each NPU of the cluster; others: one for each two CPUs.
        options: for the sessions.
        items: what to run; all hosts can read the files.
        fixed: arrays that all items share.
        folder: all hosts can write it.
        tick: called with the number of items that became ready.

    Returns:
        Item -> what is wrong with it.

    Raises:
        NotAvailableError: ``no-ray``, ``no-npu``.
        OmfuseError: what a session said that could not be opened, or that failed twice at an item;
            ``ray-failed`` when Ray itself could not run it.
    """
    ray = _ray()
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        return _run(ray, (model, device, options, fixed, folder), items, tick)
    finally:
        if started_here:
            ray.shutdown()


def _run(
    ray: Any,
    job: tuple[str, str, Mapping[str, Any], Mapping[str, Any], Path],
    items: Sequence[batches.Item],
    tick: Callable[[int], None],
) -> dict[str, OmfuseError]:
    model, device, options, fixed, folder = job
    resources = ray.cluster_resources()
    share: dict[str, Any] = {"num_cpus": 1}
    count = max(1, int(resources.get("CPU", 1)) // 2)
    if device == "ascend":
        count = int(resources.get(NPU, 0))
        if not count:
            raise NotAvailableError(
                "no-npu",
                "no host of the Ray cluster has an NPU",
                hint="start Ray on the boards with `ray start`; it finds NPUs by itself",
            )
        share = {"resources": {NPU: 1}}
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [
        {"name": item.name, "files": {n: str(p.resolve()) for n, p in item.files.items()}}
        for item in items
    ]
    count = min(count, len(rows))
    source = Path(model).resolve()
    arguments = (str(source), device, dict(options), dict(fixed), str(folder.resolve()))
    mapped = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * count)).map(
        _Actor,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=count),
        **share,
    )
    failed: dict[str, OmfuseError] = {}
    try:
        for row in mapped.iter_rows():
            tick(1)
            if row["error"]:
                failed[row["name"]] = _error(row["error"])
                if row["stop"]:
                    raise failed[row["name"]]
    except ray.exceptions.RayError as error:
        raise DeviceError(
            "ray-failed",
            f"an item could not be run: {_cause(error)}",
            where=model,
            hint="results written so far stay; run the same line again to go on",
        ) from error
    return failed


def _error(fields: Mapping[str, Any]) -> OmfuseError:
    kinds = (UsageError, DeviceError, NotAvailableError)
    kind = next((k for k in kinds if k.exit_code == fields["exit"]), DeviceError)
    return kind(fields["code"], fields["message"], fields["where"], fields["hint"])


def _cause(error: BaseException) -> str:
    """Return the last telling line of Ray's nested traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise NotAvailableError(
            "no-ray", "--ray needs Ray Data", hint="pip install 'omfuse[ray]'"
        ) from None
    return ray
