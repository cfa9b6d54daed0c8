"""Folders over Ray, in a cluster of this machine."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import sim_files
from sim_files import expected, feeds

from omfuse.acl import batches
from omfuse.errors import DeviceError, NotAvailableError, UsageError

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
    with pytest.raises(UsageError) as caught:
        run_on_ray(str(tmp_path / "none.om"), "sim", {}, items[:2], {}, out, lambda count: None)
    assert caught.value.code == "model-not-found"
    assert caught.value.where == str(tmp_path / "none.om")


@pytest.mark.filterwarnings("ignore")
def test_what_the_device_says_is_what_the_caller_hears(job, tmp_path):
    from omfuse.acl.ray_run import run_on_ray

    _, _, out = job
    model = sim_files.write(tmp_path / "slow.om", sim_files.slow_payload())
    folder = tmp_path / "slow"
    folder.mkdir()
    for index in range(3):
        np.savez(folder / f"s{index}.npz", x=np.zeros((300, 300), np.float32))
    items = batches.items_of_folder(folder)
    with pytest.raises(DeviceError) as caught:
        run_on_ray(str(model), "sim", {"timeout": 0.001}, items, {}, out, lambda count: None)
    assert caught.value.code == "acl-507046"
    assert "larger timeout" in caught.value.hint
    assert run_on_ray(str(model), "sim", {}, items, {}, out, lambda count: None) == {}
    assert len(list(out.glob("s*.npz"))) == 3


def test_an_actor_tries_an_item_again_with_a_new_session(om, tmp_path, device):
    from omfuse.acl.ray_run import _Actor

    np.savez(tmp_path / "i.npz", **feeds(2))
    row = {"name": "i", "files": {"*": str(tmp_path / "i.npz")}}
    actor = _Actor(str(om("static")), "sim", {}, {}, str(tmp_path / "out"))
    device.configure(sticky=1)
    device.fault("exec", 1, 507015, "EZ9999: aicore exception")
    assert actor(row) == {"name": "i", "error": None, "stop": False}
    assert (tmp_path / "out" / "i.npz").exists()
    device.fault("exec", 1, 507015, "EZ9999: aicore exception", sticky=True)
    made = actor(row)
    assert (made["stop"], made["error"]["code"]) == (True, "acl-507015")
    device.clear_faults()
    assert actor(row)["error"] is None
    actor._session.close()


def test_ray_is_an_extra(monkeypatch):
    import sys

    from omfuse.acl.ray_run import run_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotAvailableError) as caught:
        run_on_ray("m.om", "sim", {}, [], {}, None, lambda count: None)
    assert caught.value.code == "no-ray"
