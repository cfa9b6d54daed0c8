"""Folders over Ray, in a cluster of this machine."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from sim_files import expected, feeds

from omfuse.acl import batches
from omfuse.errors import DeviceError, NotAvailableError

pytestmark = pytest.mark.slow


@pytest.fixture
def job(om, tmp_path):
    ray = pytest.importorskip("ray")
    folder = tmp_path / "items"
    folder.mkdir()
    for index in range(24):
        np.savez(folder / f"i{index:02}.npz", **feeds(2 if index != 7 else 3, seed=index))
    ray.init(
        num_cpus=4, log_to_driver=False, include_dashboard=False, logging_level="ERROR",
        ignore_reinit_error=True,
    )  # fmt: skip
    yield str(om("static")), batches.items_of_folder(folder), tmp_path / "out"
    ray.shutdown()


def check(out, skip=()):
    for index in range(24):
        if index not in (7, *skip):
            with np.load(out / f"i{index:02}.npz") as made:
                one = feeds(2, seed=index)
                np.testing.assert_array_equal(made["total"], expected(one["a"], one["b"])["total"])
    assert not list(out.glob("*.part"))


@pytest.mark.filterwarnings("ignore")
def test_all_items_once_and_bad_ones_reported(job):
    from omfuse.acl.ray_run import run_on_ray

    model, items, out = job
    ticks = []
    failed = run_on_ray(model, "sim", {}, items, {}, out, ticks.append)
    assert {name: error.code for name, error in failed.items()} == {"i07": "bad-shape"}
    assert sum(ticks) == 24
    check(out)


@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_is_replaced(job):
    psutil = pytest.importorskip("psutil")
    from omfuse.acl.ray_run import run_on_ray

    model, items, out = job
    killed = []

    def kill_one():
        until = time.monotonic() + 60
        while time.monotonic() < until and not killed:
            for process in psutil.process_iter(["cmdline"]):
                line = process.info["cmdline"] or []
                if line and line[0].startswith("ray::") and "Map" in line[0]:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    failed = run_on_ray(model, "sim", {}, items, {}, out, lambda count: None)
    thread.join()
    assert killed
    assert list(failed) == ["i07"]
    check(out)


@pytest.mark.filterwarnings("ignore")
def test_without_an_npu_and_with_a_model_that_is_missing(job, tmp_path):
    from omfuse.acl.ray_run import run_on_ray

    model, items, out = job
    with pytest.raises(NotAvailableError) as caught:
        run_on_ray(model, "ascend", {}, items, {}, out, lambda count: None)
    assert caught.value.code == "no-npu"
    with pytest.raises(DeviceError) as caught:
        run_on_ray(str(tmp_path / "none.om"), "sim", {}, items[:2], {}, out, lambda count: None)
    assert caught.value.code == "ray-failed"


def test_ray_is_an_extra(monkeypatch):
    import sys

    from omfuse.acl.ray_run import run_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotAvailableError) as caught:
        run_on_ray("m.om", "sim", {}, [], {}, None, lambda count: None)
    assert caught.value.code == "no-ray"
