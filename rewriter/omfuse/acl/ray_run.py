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

from omfuse import errors
from omfuse.acl import batches
from omfuse.errors import ModelError, NotAvailableError, OmfuseError, UsageError

NPU = "NPU"  # what Ray calls the resource


class _Actor:
    """One session; called with one row an item."""

    def __init__(
        self, model: str, device: str, options: Mapping[str, Any], fixed: Any, folder: str
    ) -> None:
        from omfuse.session import open_session

        self._fixed, self._folder = fixed, Path(folder)
        # Ray shows each actor its own NPU alone, as number 0.
        more = {} if device == "host" else {"index": 0}
        self._session = open_session(model, device, **options, **more)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        item = batches.Item(row["name"], {n: Path(p) for n, p in row["files"].items()})
        target = batches.result_path(self._folder, item)
        try:
            outputs = self._session.run(item.load(self._fixed))
        except (UsageError, ModelError) as error:
            return {"name": item.name, "error": {"class": type(error).__name__, **error.as_dict()}}
        batches.write_result(target, outputs)
        return {"name": item.name, "error": None}


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
        DeviceError: ``ray-failed`` when an item could not be run at all.
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
                fields = dict(row["error"])
                failed[row["name"]] = getattr(errors, fields.pop("class"))(**fields)
    except ray.exceptions.RayError as error:
        raise errors.DeviceError(
            "ray-failed",
            f"an item could not be run: {_cause(error)}",
            where=model,
            hint="results written so far stay; run the same line again to go on",
        ) from error
    return failed


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
