"""Several threads, models, devices and processes; interruptions in the middle."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sim_files import expected, feeds

from omfuse.acl.isolated import IsolatedSession
from omfuse.acl.pipeline import Pipeline
from omfuse.acl.pool import DevicePool, map_sessions
from omfuse.errors import DeviceError, OmfuseError, UsageError
from omfuse.session import open_session

HERE = Path(__file__).parent


def check(result, one):
    for name, value in expected(one["a"], one["b"]).items():
        np.testing.assert_array_equal(result[name], value)


def in_threads(count, work):
    problems = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("threads", [0, 1], ids=["deferred", "stream threads"])
def test_four_threads_share_a_session(threads, om, device):
    device.configure(threads=threads)
    with open_session(om("batch"), "sim") as session:

        def work(number):
            for step in range(25):
                one = feeds((1, 2, 4)[step % 3], seed=100 * number + step)
                check(session.run(one), one)

        in_threads(4, work)


@pytest.mark.parametrize("threads", [0, 1], ids=["deferred", "stream threads"])
def test_two_models_on_one_device_in_four_threads(threads, om, device):
    device.configure(threads=threads)

    def work(number):
        with open_session(om(("static", "dynamic")[number % 2]), "sim") as session:
            for step in range(20):
                one = feeds(2, seed=100 * number + step)
                check(session.run(one), one)

    om("static"), om("dynamic")
    in_threads(4, work)


def test_a_session_waits_without_the_interpreter_lock(om, device):
    """Four runs of 0.2 s on four devices overlap; no time is asserted, only the order of events."""
    device.configure(async_exec_us=200_000, threads=1)
    started, running, most = threading.Barrier(4), [], []
    sessions = [open_session(om("static"), "sim", index=n) for n in range(4)]

    def work(number):
        started.wait()
        running.append(number)
        most.append(len(running))
        sessions[number].run(feeds(2))
        running.remove(number)

    in_threads(4, work)
    for session in sessions:
        session.close()
    assert max(most) > 1


@pytest.mark.parametrize("mode", ["static", "batch", "dims"])
@pytest.mark.parametrize("settings", [{"reorder": 1}, {"threads": 1}], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_pipelines_keep_the_order_of_results(depth, settings, mode, om, device):
    many = [feeds(2 if mode == "static" else (1, 2)[i % 2], seed=i) for i in range(12)]
    for seed in range(3):
        device.configure(**settings, seed=seed)
        with open_session(om(mode), "sim") as session:
            for result, one in zip(session.map(many, depth), many, strict=True):
                check(result, one)


def test_results_of_a_pipeline_in_any_order(om, device):
    many = [feeds(2, seed=i) for i in range(3)]
    with open_session(om("static"), "sim") as session, Pipeline(session, 3) as pipeline:
        tickets = [pipeline.submit(one) for one in many]
        for number in (2, 0, 1, 2):
            check(pipeline.result(tickets[number]), many[number])
        with pytest.raises(UsageError):
            pipeline.submit({"a": many[0]["a"]})
        check(pipeline.result(pipeline.submit(many[1])), many[1])


def test_a_pipeline_that_hangs_ends_with_its_time_out(om, device):
    with open_session(om("static"), "sim", timeout=0.5) as session:
        device.configure(async_exec_us=5_000_000)
        with pytest.raises(DeviceError, match="507047"):
            list(session.map([feeds(2)] * 3))
        device.configure(release_hangs=1)


def test_closing_a_session_under_an_open_pipeline(om, device):
    session = open_session(om("static"), "sim")
    pipeline = Pipeline(session, 2)
    pipeline.submit(feeds(2))
    session.close()
    pipeline.close()
    with pytest.raises(UsageError):
        pipeline.submit(feeds(2))


def test_close_from_another_thread_waits_for_the_run(om, device):
    session = open_session(om("static"), "sim")
    device.configure(async_exec_us=100_000)
    results = []
    runner = threading.Thread(target=lambda: results.append(session.run(one)))
    one = feeds(2)
    runner.start()
    while "aclmdlExecuteAsync" not in [entry[2] for entry in device.report()["trace"]]:
        time.sleep(0.001)
    session.close()
    runner.join()
    check(results[0], one)


def test_several_devices(om, device):
    many = [feeds(2, seed=i) for i in range(40)]
    with DevicePool(om("static"), "sim", [0, 1, 2, 3]) as pool:
        results = dict(pool.map(iter(many)))
    assert sorted(results) == list(range(40))
    for number, result in results.items():
        check(result, many[number])
    with pytest.raises(OmfuseError, match="107001"):
        DevicePool(om("static"), "sim", [0, 9])
    with pytest.raises(UsageError):
        DevicePool(om("static"), "sim", [])


def test_the_first_failure_ends_a_pool():
    def broken(item):
        if item == 5:
            raise DeviceError("gone", "the device is gone")
        return item

    got = []
    with pytest.raises(DeviceError):
        got.extend(map_sessions([broken, broken], range(1000)))
    assert len(got) < 20

    def source():
        yield 1
        raise ValueError("bad source")

    with pytest.raises(ValueError, match="bad source"):
        list(map_sessions([broken], source()))


def test_a_forked_child_is_refused_and_leaves_the_parent_alone(om, device):
    session = open_session(om("static"), "sim")
    check(session.run(feeds(2)), feeds(2))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # nothing but system calls and the session: other threads are gone
        said = []
        for use in (lambda: session.run({}), lambda: open_session(om("static"), "sim")):
            try:
                use()
            except OmfuseError as error:
                said.append(error.code)
        calls = device.report()["calls"]
        session.close()
        said.append(str(device.report()["calls"] - calls))
        os.write(writing, " ".join(said).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 1000) == b"forked forked 0"
    os.close(reading), os.close(writing)
    check(session.run(feeds(2)), feeds(2))
    session.close()


# ---- worker processes
def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_isolated_sessions_do_the_same(om, device):
    one = feeds(2)
    with IsolatedSession(om("batch"), "sim") as session:
        assert session.mode == "batch"
        assert [t.name for t in session.outputs] == ["total", "twice"]
        assert session.inputs[0].shape == ("batch", 4)
        check(session.run(one), one)
        assert session.default_dims({"batch": 4}) == {"a": (4, 4), "b": (4, 4)}
        with pytest.raises(UsageError) as caught:
            session.run(feeds(3))
        assert caught.value.code == "bad-shape"
        assert "compiled are batch 1, 2, 4" in caught.value.hint
        pid = session.pid
    assert not alive(pid)
    with pytest.raises(UsageError):
        session.run(one)


def test_isolated_sessions_map_and_feed_back(om, device):
    many = [feeds(2, seed=i) for i in range(4)]
    with IsolatedSession(om("static"), "sim") as session:
        for result, one in zip(session.map(many), many, strict=True):
            check(result, one)
        session.bind("total", "a")
        session.run(many[0])
        again = session.run({"b": many[1]["b"]}, ["total"])["total"]
        np.testing.assert_array_equal(again, many[0]["a"] + many[0]["b"] + many[1]["b"])
        session.forget()
        with pytest.raises(UsageError, match="input 'a' is missing"):
            session.run({"b": many[1]["b"]})
        target = np.zeros((2, 4), np.float32)
        assert session.run(many[0], "total", out={"total": target})["total"] is target
        np.testing.assert_array_equal(target, many[0]["a"] + many[0]["b"])
        with pytest.raises(UsageError, match="array given"):
            session.run(many[0], "total", out={"total": np.zeros(3)})


STRANGE = {
    "text": [["x"] * 4] * 2,
    "dates": np.zeros((2, 4), "datetime64[D]"),
    "records": np.zeros((2, 4), [("x", "f4")]),
    "objects": np.zeros((2, 4), object),
    "a number": 3,
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_feed_does_not_end_the_worker(what, om, device):
    one = feeds(2)
    with IsolatedSession(om("static"), "sim") as session:
        with pytest.raises(UsageError, match="takes float32"):
            session.run({**one, "a": STRANGE[what]})
        check(session.run(one), one)


def test_a_fault_of_the_worker_itself_is_an_error_with_its_text(om, device):
    with IsolatedSession(om("static"), "sim") as session:
        with pytest.raises(DeviceError) as caught:
            session._ask({"run": 3}, feeds(2), None)
        assert caught.value.code == "worker-failed"
        assert "TypeError" in caught.value.message
        check(session.run(feeds(2)), feeds(2))


def test_close_of_an_isolated_session_waits_for_the_run(om, device):
    session = IsolatedSession(om("static"), "sim")
    started, said = threading.Event(), []

    def work():
        try:
            while True:
                check(session.run(feeds(2)), feeds(2))
                started.set()
        except OmfuseError as error:
            said.append(error.code)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    session.close()
    thread.join()
    assert said == ["session-closed"]


def test_errors_of_the_device_travel(om, device):
    with pytest.raises(DeviceError) as caught:
        IsolatedSession(om("static"), "sim", 9)
    assert (caught.value.number, caught.value.function) == (107001, "aclrtSetDevice")
    assert caught.value.where == "device 9"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_dies_is_an_error_with_the_last_call(how, om, device):
    with IsolatedSession(om("static"), "sim") as session:
        session.run(feeds(2))
        os.kill(session.pid, how)
        with pytest.raises(DeviceError) as caught:
            session.run(feeds(2))
    assert caught.value.code == "worker-died"
    assert "last ACL call #" in caught.value.message
    if how != signal.SIGTERM:  # that one gives the device back first
        assert how.name in caught.value.message
        assert "aclrt" in caught.value.message
    assert not alive(session.pid)


CALLER = """
import os, sys, time
sys.path.insert(0, {here!r})
from sim_files import feeds
from omfuse.acl.opening import open_om
from omfuse.sim.device import simulated_device
{body}
"""


def start(body):
    code = CALLER.format(here=str(HERE), body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_a_process_that_ends_without_close_gives_everything_back(om, device):
    body = f"""
import builtins
device = simulated_device()
class Last:
    def __del__(self):  # of what lives in builtins: after everything that runs at exit
        report = device.report()
        print(report["leaks"], report["violations"], report["trace"][-1][2], flush=True)
builtins.last = Last()
session = open_om({str(om("static"))!r}, "sim")
session.run(feeds(2))
many = session.map([feeds(2)] * 5)
next(many)
print("open", flush=True)
"""
    process, line = start(body)
    said, problem = process.communicate(timeout=60)
    assert (line, said.strip()) == ("open", "[] [] aclFinalizeReference"), problem


def test_a_caller_that_is_killed_leaves_no_orphan_and_no_file(om, device, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    body = f"""
import tempfile
tempfile.tempdir = {str(scratch)!r}
session = open_om({str(om("static"))!r}, "sim", isolated=True)
print(session.pid, flush=True)
time.sleep(60)
"""
    process, line = start(body)
    worker = int(line)
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(worker)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("isolated", [False, True])
def test_ctrl_c_in_the_middle_gives_everything_back(isolated, om, device):
    body = f"""
device = simulated_device()
session = open_om({str(om("static"))!r}, "sim", isolated={isolated})
device.configure(async_exec_us=300_000)
worker = getattr(session, "pid", 0)
print(worker, flush=True)
try:
    with session:
        while True:
            session.run(feeds(2))
except KeyboardInterrupt:
    report = device.report()
    print(report["leaks"], report["violations"], flush=True)
"""
    process, line = start(body)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said, problem = process.communicate(timeout=60)
    assert said.strip() == "[] []", problem
    assert int(line) == 0 or not alive(int(line))


def test_sigterm_of_the_command_line_leaves_no_half_written_file(om, tmp_path, device):
    folder, out = tmp_path / "items", tmp_path / "out"
    folder.mkdir()
    for number in range(400):
        np.savez(folder / f"i{number:03}.npz", **feeds(2, seed=number))
    line = ["run", om("static"), "--device", "sim", "--input", folder, "--save-outputs", out]
    command = [sys.executable, "-m", "omfuse", *map(str, line)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while len(list(out.glob("*.npz"))) < 3 and time.monotonic() < until:
        time.sleep(0.005)
    process.terminate()
    process.communicate(timeout=60)
    for path in out.glob("*.npz"):
        with np.load(path) as made:
            assert set(made.files) == {"total", "twice"}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert '"failed": []' in done.stdout
    assert len(list(out.glob("*.npz"))) == 400
