"""Every ACL call of open, run and close fails once: right error, nothing left, close twice."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sim_files import PAYLOADS, expected, feeds

from omfuse.acl.codes import AclError
from omfuse.acl.opening import library_of
from omfuse.acl.resources import SharedWorkspace
from omfuse.errors import DeviceError, ModelError, OmfuseError, UsageError
from omfuse.session import open_session

CODE = 500002
TEXT = "E19999: injected"
# Failures of these lose no result: they ask for comfort, or give something back.
TOLERATED = {
    "aclrtGetCurrentContext",
    "aclmdlGetInputDimsRange",
    "aclmdlGetInputFormat",
    "aclmdlGetOutputFormat",
    "aclmdlGetTensorRealName",
    "aclmdlDestroyDesc",
    "aclDestroyTensorDesc",
    "aclmdlDestroyDataset",
    "aclDestroyDataBuffer",
    "aclGetDataBufferAddr",
    "aclGetDataBufferSizeV2",
    "aclUpdateDataBuffer",
    "aclrtFree",
    "aclrtFreeHost",
    "aclmdlUnload",
    "aclrtDestroyStream",
    "aclrtDestroyEvent",
    "aclrtDestroyContext",
    "aclrtResetDevice",
    "aclrtSetCurrentContext",
    "aclFinalizeReference",
    "aclrtMallocHost",
    "aclrtSynchronizeStream",
    "aclmdlDestroyExecConfigHandle",
}


def use(path, mode, how, library):
    """Open, run, close twice; the outputs must be right."""
    rows = (2, 2) if mode == "static" else (1, 2)
    many = [feeds(n, seed=n) for n in rows]
    options = {"timeout": {"timeout": 100}, "memory": {"load": "memory"}}.get(how, {})
    results = []

    def work(session):
        try:
            if how == "pipeline":
                results.extend(session.map([*many, *many], 2))
            else:
                results.extend(session.run(one) for one in (*many, *many))
        finally:
            session.close()
            session.close()

    if how == "workspace":
        with SharedWorkspace([str(path)], 0, library) as workspace:
            work(open_session(path, "sim", workspace=workspace))
    elif how == "other thread":  # there the context is not current, and has to be entered
        session = open_session(path, "sim")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work, session).result()
    else:
        work(open_session(path, "sim", **options))
    for result, one in zip(results, (*many, *many), strict=True):
        for name, value in expected(one["a"], one["b"]).items():
            np.testing.assert_array_equal(result[name], value)


BOUNDED = [mode for mode in PAYLOADS if mode not in ("dynamic", "open")]
WAYS = [
    *[(mode, "run") for mode in PAYLOADS],
    *[(mode, "pipeline") for mode in BOUNDED],
    *[(mode, "timeout") for mode in ("static", "dynamic")],
    ("static", "memory"),
    ("batch", "workspace"),
    *[(mode, "other thread") for mode in ("dims", "dynamic")],
]


@pytest.mark.parametrize(("mode", "how"), WAYS)
def test_every_call_may_fail(mode, how, om, device):
    path, library = om(mode), library_of(str(device.path))
    device.configure(trace_limit=20000)
    use(path, mode, how, library)
    calls = device.report()["calls"]
    assert calls > 80
    silent = set()
    for nth in range(1, calls + 1):
        device.reset()
        device.fault("*", nth, CODE, TEXT)
        problem = None
        try:
            use(path, mode, how, library)
        except (AclError, ModelError) as error:
            problem = error
        if isinstance(problem, ModelError):
            assert problem.code in ("bad-description", "acl-dtype"), problem.message
        elif problem is not None:
            unread = problem.function.startswith("aclmdlGetDatasetTensor")
            assert problem.number in (CODE, 0) or unread
            assert problem.exit_code == 3
            assert "injected" in problem.message or problem.number != CODE
        else:
            trace = device.report()["trace"]
            silent.add(next(name for seq, _, name, code in trace if seq == nth))
        report = device.report()
        assert report["leaks"] == [], nth
        assert report["violations"] == [], nth
    allowed = TOLERATED
    if mode in ("dynamic", "open"):  # 0 is what sizes without a bound say
        allowed = TOLERATED | {"aclmdlGetInputSizeByIndex", "aclmdlGetOutputSizeByIndex"}
    assert silent <= allowed, silent - allowed


@pytest.mark.parametrize("mode", ["static", "batch", "dynamic"])
def test_every_call_of_a_run_with_feedback_may_fail(mode, om, device):
    """After a failure the session goes on with the right state, or says why not."""
    one = feeds(2)
    step = one["b"]

    def steps(session):
        session.run(one)
        for _ in range(2):
            session.run({"b": step})
        return session.run({"b": step}, ["total"])["total"]

    with open_session(om(mode), "sim") as session:
        session.bind("total", "a")
        before = device.report()["calls"]
        right = one["a"] + 4 * step
        np.testing.assert_allclose(steps(session), right, rtol=1e-6)
        calls = device.report()["calls"] - before
    for nth in range(1, calls + 1):
        device.reset()
        with open_session(om(mode), "sim") as session:
            session.bind("total", "a")
            device.fault("*", nth, CODE, TEXT)
            try:
                value = steps(session)
            except AclError:
                device.clear_faults()
                value = steps(session)  # starts over with a fresh value
            np.testing.assert_allclose(value, right, rtol=1e-6)
        report = device.report()
        assert report["leaks"] == [], nth
        assert report["violations"] == [], nth


@pytest.mark.parametrize("mode", ["static", "batch", "dynamic"])
def test_a_session_survives_a_failed_run(mode, om, device):
    with open_session(om(mode), "sim") as session:
        one = feeds(2)
        device.fault("exec", 1, 507018, "EZ9999: aicpu exception")
        with pytest.raises(AclError) as caught:
            session.run(one)
        assert caught.value.number == 507018
        assert "aicpu exception" in caught.value.message
        np.testing.assert_array_equal(session.run(one)["total"], one["a"] + one["b"])


def test_a_dead_device_breaks_the_session_and_not_the_next_one(om, device):
    device.configure(sticky=1)
    session = open_session(om("static"), "sim")
    device.fault("exec", 1, 507015, "EZ9999: aicore exception")
    with pytest.raises(AclError):
        session.run(feeds(2))
    with pytest.raises(UsageError) as caught:
        session.run(feeds(2))
    assert caught.value.code == "session-broken"
    assert "507015" in caught.value.message
    session.close()
    device.clear_faults()
    with open_session(om("static"), "sim") as again:
        assert set(again.run(feeds(2))) == {"total", "twice"}


@pytest.mark.parametrize("problem", [ValueError("what went wrong"), SystemExit(3)], ids=repr)
def test_a_computation_that_raises_is_a_failed_run(problem, om, device):
    def broken(feeds, outputs):
        raise problem

    device.mutate = broken
    with open_session(om("static"), "sim") as session:
        for _ in range(2):
            with pytest.raises(AclError) as caught:
                session.run(feeds(2))
            assert caught.value.number in (507011, 500002)
        if isinstance(problem, ValueError):
            assert "what went wrong" in caught.value.message


def test_a_dead_device_does_not_touch_the_others(om, device):
    device.configure(sticky=1)
    one = feeds(2)
    with open_session(om("static"), "sim", index=0) as lost:
        with open_session(om("static"), "sim", index=1) as other:
            device.fault("exec", 1, 507010, "EZ9999: heartbeat lost")
            with pytest.raises(AclError):
                lost.run(one)
            np.testing.assert_array_equal(other.run(one)["total"], one["a"] + one["b"])
            # Nobody gets at the lost one before it is reset.
            with pytest.raises(AclError) as caught:
                open_session(om("static"), "sim", index=0)
            assert caught.value.number == 507010
        lost.close()
        with open_session(om("static"), "sim", index=0) as again:
            np.testing.assert_array_equal(again.run(one)["total"], one["a"] + one["b"])


def test_out_of_memory_says_what_is_needed_and_free(om, device):
    device.configure(memory_bytes=500)
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim")
    assert caught.value.code == "acl-207001"
    assert "512 bytes of work memory" in caught.value.message
    assert "of 500 bytes are free" in caught.value.message
    device.configure(memory_bytes=650)  # the model fits, its buffers do not
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim")
    assert "tensor 'b' needs 32 bytes" in caught.value.message


@pytest.mark.parametrize("load", ["file", "memory"])
def test_a_model_of_another_chip_says_which_chip_this_is(load, om, device):
    device.configure(soc="Ascend910B3")
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim", load=load)
    assert caught.value.code == "acl-545001"
    assert caught.value.message.endswith("; this chip is Ascend910B3")
    assert "compiled for another chip" in caught.value.hint


def test_memory_of_ddr_chips_is_found(om, device):
    device.configure(ddr=1)
    with open_session(om("static"), "sim") as session:
        free, total = session.memory()
    assert 0 < free < total == 32 << 30


def test_an_error_says_number_name_meaning_and_where_the_logs_are(
    om, device, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ASCEND_PROCESS_LOG_PATH", raising=False)

    def problem():
        with pytest.raises(AclError) as caught:
            open_session(om("static"), "sim", index=9)
        return caught.value

    said = "aclrtSetDevice returned 107001 ACL_ERROR_RT_INVALID_DEVICEID (no device of this number)"
    assert problem().message == f"{said}: EE1001: Invalid device ID 9"
    assert "npu-smi" in problem().hint
    assert "logs:" not in problem().hint  # there are none on this machine
    for folder in (tmp_path / "ascend" / "log" / "debug" / "plog", tmp_path / "named"):
        folder.mkdir(parents=True)
        if folder.name == "named":
            monkeypatch.setenv("ASCEND_PROCESS_LOG_PATH", str(folder))
        assert problem().hint.endswith(f"logs: {folder}")


def test_a_device_that_cannot_be_set_is_not_reset(om, device):
    device.fault("aclrtSetDevice", 1, 507033, "EE9999: open device failed")
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim")
    assert caught.value.number == 507033
    assert "permissions" in caught.value.hint
    assert "aclrtResetDevice" not in [entry[2] for entry in device.report()["trace"]]


def test_unknown_device_number(om, device):
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim", index=9)
    assert caught.value.number == 107001
    assert caught.value.where == "device 9"


def test_the_stub_library_is_recognised(om, device):
    device.configure(stub=1)
    with pytest.raises(OmfuseError) as caught:
        open_session(om("static"), "sim")
    assert caught.value.code == "acl-stub"
    assert caught.value.exit_code == 4
    assert "devlib" in caught.value.hint


def test_foreign_initialisation_is_left_alone(om, device):
    device.configure(foreign_init=1)
    with open_session(om("static"), "sim") as session:
        session.run(feeds(2))
    names = [entry[2] for entry in device.report()["trace"]]
    assert "aclFinalize" not in names


@pytest.mark.parametrize(
    "said",
    [None, b"", b"x" * 100_000, b"\xff\xfe broken \x80"],
    ids=["null", "empty", "long", "raw"],
)
def test_any_message_of_the_library_is_bearable(said, om, device):
    device.fault("aclmdlLoadFromFile", 1, 545001, said)
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim")
    assert "545001" in caught.value.message
    assert len(caught.value.message) < 600
    assert "another chip" in caught.value.hint


@pytest.mark.parametrize(
    "text", [None, "", "x" * 100_000, b"\xff\xfe"], ids=["null", "empty", "long", "raw"]
)
def test_a_message_function_may_answer_anything(text, om, device):
    device.fault("aclmdlLoadFromFile", 1, 545001, "lost")
    device.fault("aclGetRecentErrMsg", 1, 0, text, sticky=True)
    with pytest.raises(AclError) as caught:
        open_session(om("static"), "sim")
    assert caught.value.number == 545001
    assert "lost" not in caught.value.message
    assert len(caught.value.message) < 600


GETTERS = ("aclGetDataBufferAddr", "aclGetDataBufferSizeV2")


@pytest.mark.parametrize("getter", GETTERS)
def test_getters_that_never_fail_can_be_made_to(getter, om, device):
    with open_session(om("dynamic"), "sim") as session:
        device.fault(getter, 1)
        with pytest.raises(AclError):
            session.run(feeds(2))
        np.testing.assert_array_equal(session.run(feeds(2))["total"], sum(feeds(2).values()))


def test_faults_by_chance_are_repeatable(om, device):
    def failures():
        found = []
        device.configure(seed=5)
        with open_session(om("static"), "sim") as session:
            device.fault("exec", code=507018, text="EZ9999: by chance", probability=0.3)
            for number in range(30):
                try:
                    session.run(feeds(2))
                except AclError as error:
                    found.append((number, error.number))
        device.clear_faults()
        return found

    first = failures()
    assert 0 < len(first) < 30
    assert {code for _, code in first} == {507018}
    assert failures() == first


@pytest.mark.parametrize("settings", [{}, {"threads": 1}], ids=["deferred", "stream threads"])
@pytest.mark.parametrize("mode", ["static", "batch", "dynamic"])
def test_a_model_that_computes_longer_than_it_may(mode, settings, om, device):
    """The time is that of the computation itself, not one that was asked for."""
    device.configure(**settings)

    def slow(feeds, outputs):
        time.sleep(0.4)
        return outputs

    device.mutate = slow
    with open_session(om(mode), "sim", timeout=0.1) as session:
        with pytest.raises(AclError) as caught:
            session.run(feeds(2))
        assert caught.value.number == 507046
    with open_session(om(mode), "sim", timeout=20) as session:
        session.run(feeds(2))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_time_out(mode, om, device):
    with open_session(om(mode), "sim", timeout=1) as session:
        session.run(feeds(2))
        device.configure(exec_us=9_000_000, async_exec_us=9_000_000)
        with pytest.raises(AclError) as caught:
            session.run(feeds(2))
        assert caught.value.number == 507046
        with pytest.raises(UsageError):
            session.run(feeds(2))


def test_output_that_outgrows_its_buffer_is_allocated_anew(om, device):
    one = feeds(2)
    with open_session(om("dynamic"), "sim") as session:
        session.run(one)
        device.fault("aclmdlExecute", 1, 500002, "E13031: Output tensor is invalid.")
        np.testing.assert_array_equal(session.run(one)["total"], one["a"] + one["b"])
        device.fault("aclmdlExecute", 1, 500002, "E13031: Output tensor is invalid.")
        device.fault("aclmdlExecute", 2, 500002, "E13031: Output tensor is invalid.")
        with pytest.raises(AclError):
            session.run(one)
        np.testing.assert_array_equal(session.run(one)["total"], one["a"] + one["b"])


def test_pinned_memory_may_run_out(om, device):
    device.fault("aclrtMallocHost", 1, 207001, "EL0004: no memory", sticky=True)
    many = [feeds(2, seed=i) for i in range(5)]
    with open_session(om("static"), "sim") as session:
        results = list(session.map(many))
    for result, one in zip(results, many, strict=True):
        np.testing.assert_array_equal(result["total"], one["a"] + one["b"])


def test_pipeline_reports_the_error_of_the_device_and_stops(om, device):
    many = [feeds(2, seed=i) for i in range(6)]
    with open_session(om("static"), "sim") as session:
        device.fault("exec", 3, 507018, "EZ9999: aicpu exception")
        got = []
        with pytest.raises(DeviceError, match="aicpu"):
            got.extend(session.map(many))
        for result, one in zip(got, many, strict=False):
            np.testing.assert_array_equal(result["total"], one["a"] + one["b"])
        assert len(got) <= 2
        device.clear_faults()
        session.run(many[0])
