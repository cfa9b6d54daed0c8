"""What the session relies on, call by call.

Where the documents leave a choice, both answers are allowed and the one seen goes to the record.
"""

import ctypes

import numpy as np
import pytest

from omfuse.acl.device_session import DeviceSession
from omfuse.errors import UsageError

H2D, D2H = 1, 2


def pointer() -> ctypes.c_void_p:
    return ctypes.c_void_p()


def test_the_version_is_told(started):
    numbers = [ctypes.c_int32() for _ in range(3)]
    assert started.status("aclrtGetVersion", *(ctypes.byref(n) for n in numbers)) == 0
    assert numbers[0].value >= 1


def test_a_second_init_says_so(code):
    assert code("second aclInit", "aclInit", None) == 100002


def test_devices(code):
    count = ctypes.c_uint32()
    assert code("count", "aclrtGetDeviceCount", ctypes.byref(count)) == 0
    assert count.value >= 1
    assert code("device of no such number", "aclrtSetDevice", count.value + 50) == 107001
    assert code("reset of a device that is not set", "aclrtResetDevice", count.value + 50) != 0


def test_device_memory(code, started):
    found = pointer()
    assert code("malloc of 0", "aclrtMalloc", ctypes.byref(found), 0, 0) == 100000
    assert code("malloc of 4 EB", "aclrtMalloc", ctypes.byref(found), 1 << 62, 0) in (
        207001,
        207018,
    )
    assert code("malloc", "aclrtMalloc", ctypes.byref(found), 100, 0) == 0
    assert found.value % 64 == 0
    host, back = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)
    copy = "aclrtMemcpy"
    assert code("copy in", copy, found, 100, host.ctypes.data, 100, H2D) == 0
    assert code("copy out", copy, back.ctypes.data, 100, found, 100, D2H) == 0
    np.testing.assert_array_equal(host, back)
    assert code("copy of nothing", copy, found, 100, host.ctypes.data, 0, H2D) == 0
    assert code("copy to null", copy, None, 100, host.ctypes.data, 100, H2D) == 100000
    assert code("copy beyond destMax", copy, found, 10, host.ctypes.data, 11, H2D) == 107000
    assert code("free", "aclrtFree", found) == 0
    assert code("free of null", "aclrtFree", None) == 100000


def test_memory_is_counted_in_one_of_two_kinds(started):
    totals = []
    for kind in (1, 0):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        started.status("aclrtGetMemInfo", kind, ctypes.byref(free), ctypes.byref(total))
        totals.append(total.value)
    started.recent_message()
    assert max(totals) > 0


def test_streams_and_events(code, started):
    stream, start, end = pointer(), pointer(), pointer()
    assert code("stream", "aclrtCreateStream", ctypes.byref(stream)) == 0
    for event in (start, end):
        assert code("event", "aclrtCreateEventExWithFlag", ctypes.byref(event), 8 | 1) == 0
        assert code("record", "aclrtRecordEvent", event, stream) == 0
    assert code("wait", "aclrtSynchronizeStreamWithTimeout", stream, 5000) == 0
    elapsed = ctypes.c_float(-1)
    assert code("elapsed", "aclrtEventElapsedTime", ctypes.byref(elapsed), start, end) == 0
    assert elapsed.value >= 0
    for event in (start, end):
        assert code("destroy event", "aclrtDestroyEvent", event) == 0
    assert code("destroy stream", "aclrtDestroyStream", stream) == 0


def test_contexts(code):
    own, first = pointer(), pointer()
    assert code("current", "aclrtGetCurrentContext", ctypes.byref(first)) == 0
    assert code("create", "aclrtCreateContext", ctypes.byref(own), 0) == 0
    stream = pointer()
    assert code("stream", "aclrtCreateStream", ctypes.byref(stream)) == 0
    assert code("back", "aclrtSetCurrentContext", first) == 0
    assert code("stream of another context", "aclrtSynchronizeStream", stream) == 107003
    assert code("own", "aclrtSetCurrentContext", own) == 0
    assert code("destroy stream", "aclrtDestroyStream", stream) == 0
    assert code("destroy", "aclrtDestroyContext", own) == 0
    assert code("back", "aclrtSetCurrentContext", first) == 0
    assert code("null", "aclrtSetCurrentContext", None) == 100000


def test_models_that_cannot_be_loaded(code, tmp_path):
    found = ctypes.c_uint32()
    load = "aclmdlLoadFromFile"
    assert code("no such model", load, b"/nowhere/m.om", ctypes.byref(found)) == 145002
    bad = tmp_path / "bad.om"
    bad.write_bytes(b"XXXX" * 200)
    assert code("bad magic", load, str(bad).encode(), ctypes.byref(found)) == 145006
    assert code("unload of nothing", "aclmdlUnload", 1 << 30) in (145003, 545009)


def test_a_session_runs_the_same_twice(started, model):
    with DeviceSession(model, started) as session:
        draw = np.random.default_rng(0)
        feeds = {
            t.name: draw.standard_normal(t.shape).astype(t.dtype)
            if t.dtype.kind == "f"
            else np.ones(t.shape, t.dtype)
            for t in session.inputs
        }
        if session.mode != "static":
            pytest.skip("the model is not static")
        first, second = session.run(feeds), session.run(feeds)
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])
        for result in session.map([feeds] * 4):
            for name, array in first.items():
                np.testing.assert_array_equal(array, result[name])
        with pytest.raises(UsageError):
            session.run({})


def test_gears_on_a_static_model(code, started, model):
    """Which code a static model gives is used in a sentence of ours."""
    found = ctypes.c_uint32()
    assert code("load", "aclmdlLoadFromFile", model.encode(), ctypes.byref(found)) == 0
    dataset = started.make("aclmdlCreateDataset")
    block = pointer()
    assert code("malloc", "aclrtMalloc", ctypes.byref(block), 64, 0) == 0
    buffer = started.make("aclCreateDataBuffer", block, 64)
    assert code("add", "aclmdlAddDatasetBuffer", dataset, buffer) == 0
    gear = code("gear of a static model", "aclmdlSetDynamicBatchSize", found, dataset, 0, 2)
    assert gear in (145013, 100000, 145012)
    started.status("aclmdlDestroyDataset", dataset)
    started.status("aclDestroyDataBuffer", buffer)
    started.status("aclrtFree", block)
    assert code("unload", "aclmdlUnload", found) == 0
    assert code("unload twice", "aclmdlUnload", found) == 145003
