"""What the simulated library says to misuse: the codes that the real one documents."""

import ctypes
import subprocess
import sys
import threading
import time

import pytest
from raw import D2H, H2D, Raw, dims
from sim_files import feeds

from omfuse.session import open_session

NOWHERE = 0x1234


@pytest.fixture
def raw(device, om):
    return Raw(device, str(om("static")))


@pytest.fixture
def on(raw):
    raw.start()
    yield raw
    raw.stop()


def test_init_and_finalize(raw, tmp_path):
    other = tmp_path / "acl.json"
    other.write_text("{}")
    assert raw.aclInit(str(tmp_path / "none.json").encode()) == 100003
    assert raw.aclInit(None) == 0
    assert raw.aclInit(None) == 100002
    assert raw.aclInit(str(other).encode()) == 100000
    count = ctypes.c_uint64()
    assert raw.aclFinalizeReference(ctypes.byref(count)) == 0
    assert count.value == 1
    assert raw.aclFinalize() == 0
    assert raw.aclFinalize() == 100037
    assert raw.aclFinalizeReference(ctypes.byref(count)) == 100037
    assert raw.aclInit(None) == 0
    assert raw.aclFinalize() == 0


def test_a_reference_that_nobody_holds_cannot_be_given_up(raw):
    assert raw.aclFinalizeReference(ctypes.byref(ctypes.c_uint64())) == 100037


def test_devices(raw):
    assert raw.aclrtSetDevice(0) == 100001
    raw.start()
    assert raw.aclrtSetDevice(4) == 107001
    assert raw.aclrtSetDevice(-1) == 107001
    assert raw.aclrtResetDevice(1) == 507007
    assert raw.aclrtSetDevice(0) == 0  # counted
    assert raw.aclrtResetDevice(0) == 0
    raw.stop()


def test_contexts(on):
    first = on.pointer("aclrtGetCurrentContext")
    assert on.aclrtDestroyContext(first) == 107002  # a primary one
    assert on.aclrtCreateContext(ctypes.byref(ctypes.c_void_p()), 3) == 107001
    own = on.pointer("aclrtCreateContext", 0)
    assert on.pointer("aclrtGetCurrentContext") == own
    stream = on.pointer("aclrtCreateStream")
    assert on.aclrtSetCurrentContext(None) == 100000
    assert on.aclrtSetCurrentContext(first) == 0
    assert on.aclrtSynchronizeStream(stream) == 107003
    assert on.aclrtSetCurrentContext(own) == 0
    assert on.aclrtDestroyStream(stream) == 0
    assert on.aclrtDestroyContext(own) == 0
    assert on.aclrtDestroyContext(own) == 107002
    assert on.aclrtSetCurrentContext(own) == 107000


def test_a_thread_without_context(on):
    codes = []
    address, pinned = on.malloc(8), on.pointer("aclrtMallocHost", 8)
    event, model, desc = on.pointer("aclrtCreateEvent"), on.load(), on.aclmdlCreateDesc()
    ms, status, sizes = ctypes.c_float(), ctypes.c_int(), ctypes.c_size_t()

    def work():
        codes.append(on.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), 8, 0))
        codes.append(on.aclrtFree(address))
        codes.append(on.aclrtFreeHost(pinned))
        codes.append(on.aclrtGetMemInfo(1, ctypes.byref(sizes), ctypes.byref(sizes)))
        codes.append(on.aclrtCreateStream(ctypes.byref(ctypes.c_void_p())))
        codes.append(on.aclrtQueryEventStatus(event, ctypes.byref(status)))
        codes.append(on.aclrtEventElapsedTime(ctypes.byref(ms), event, event))
        codes.append(on.aclrtDestroyEvent(event))
        codes.append(on.aclmdlLoadFromFile(on.path, ctypes.byref(ctypes.c_uint32())))
        codes.append(on.aclmdlGetDesc(desc, model))
        codes.append(on.aclmdlSetDynamicBatchSize(model, None, 2, 2))
        codes.append(on.aclmdlUnload(model))
        codes.append(on.aclrtSynchronizeDevice())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [107002] * 13
    assert on.aclmdlDestroyDesc(desc) == on.aclmdlUnload(model) == on.aclrtDestroyEvent(event) == 0
    assert on.aclrtFree(address) == on.aclrtFreeHost(pinned) == 0


def test_events_belong_to_their_context(on):
    first, event = on.pointer("aclrtGetCurrentContext"), on.pointer("aclrtCreateEvent")
    own = on.pointer("aclrtCreateContext", 0)
    stream, status = on.pointer("aclrtCreateStream"), ctypes.c_int()
    assert on.aclrtRecordEvent(event, stream) == 107003
    assert on.aclrtStreamWaitEvent(stream, event) == 107003
    assert on.aclrtSynchronizeEvent(event) == 107003
    assert on.aclrtQueryEventStatus(event, ctypes.byref(status)) == 107003
    assert on.aclrtDestroyStream(stream) == on.aclrtDestroyContext(own) == 0
    assert on.aclrtSetCurrentContext(first) == on.aclrtDestroyEvent(event) == 0


def test_a_thread_that_holds_a_context_is_in_the_ledger(raw, device):
    raw.start()
    entered, leave, own = threading.Event(), threading.Event(), []

    def work():
        own.append(raw.pointer("aclrtCreateContext", 0))
        entered.set()
        leave.wait()

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait()
    assert [entry["alive"] for entry in device.report()["threads"]] == [True, True]
    assert raw.aclrtDestroyContext(own[0]) == 0
    raw.stop()
    assert [entry["alive"] for entry in device.report()["threads"]] == [False]
    leave.set()
    thread.join()
    until = time.monotonic() + 5  # for the system it ends a little later
    while device.report()["threads"] and time.monotonic() < until:
        time.sleep(0.01)
    assert device.report()["threads"] == []


def test_a_session_leaves_no_context_on_its_thread(om, device):
    with open_session(om("static"), "sim") as session:
        session.run(feeds(2))
        assert [entry["alive"] for entry in device.report()["threads"]] == [True]
    assert device.report()["threads"] == []


def test_devices_have_memory_and_streams_of_their_own(raw, device):
    device.configure(memory_bytes=1000, max_streams=1)
    raw.start(0)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    first, stream = raw.malloc(900), raw.pointer("aclrtCreateStream")
    assert raw.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), 900, 0) == 207001
    assert raw.aclrtSetDevice(1) == 0
    assert raw.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total)) == 0
    assert (free.value, total.value) == (1000, 1000)
    second, other = raw.malloc(900), raw.pointer("aclrtCreateStream")
    assert raw.aclrtFree(second) == raw.aclrtDestroyStream(other) == 0
    assert raw.aclrtResetDevice(1) == 0
    assert raw.aclrtSetDevice(0) == 0
    assert raw.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total)) == 0
    assert free.value == 1000 - 960
    assert raw.aclrtFree(first) == raw.aclrtDestroyStream(stream) == 0
    assert raw.aclrtResetDevice(0) == 0
    raw.stop()


def test_memory(on, device):
    found = ctypes.c_void_p()
    assert on.aclrtMalloc(ctypes.byref(found), 0, 0) == 100000
    assert on.aclrtMalloc(None, 8, 0) == 100000
    assert on.aclrtMalloc(ctypes.byref(found), 1 << 62, 0) == 207001
    assert b"EL0004" in on.aclGetRecentErrMsg()
    assert on.aclGetRecentErrMsg() is None  # reading clears it
    address = on.malloc(100)
    assert address >= 0x1000_0000_0000
    assert address % 64 == 0
    assert device.report()["used"] == 160  # rounded up to 32, and 32 more
    assert on.aclrtFree(None) == 100000
    assert on.aclrtFree(NOWHERE) == 107000
    assert on.aclrtFree(address) == 0
    assert on.aclrtFree(address) == 107000
    assert on.aclrtFreeHost(NOWHERE) == 107000


def test_copies(on):
    host = (ctypes.c_uint8 * 64)(*range(64))
    back = (ctypes.c_uint8 * 64)()
    address = on.malloc(64)
    assert on.aclrtMemcpy(address, 64, host, 64, H2D) == 0
    assert on.aclrtMemcpy(back, 64, address, 64, D2H) == 0
    assert list(back) == list(range(64))
    assert on.aclrtMemcpy(None, 64, host, 64, H2D) == 100000
    assert on.aclrtMemcpy(address, 64, host, 0, H2D) == 0
    assert on.aclrtMemcpy(address, 10, host, 11, H2D) == 107000
    assert on.aclrtMemcpy(address, 0, host, 1, H2D) == 107000
    assert on.aclrtMemcpy(address, 1000, host, 1000, H2D) == 507013  # past the block
    assert on.aclrtFree(address) == 0
    assert on.aclrtMemcpy(address, 8, host, 8, H2D) == 507013  # after free


def test_copies_are_deferred(on):
    pinned = on.pointer("aclrtMallocHost", 64)
    view = (ctypes.c_uint8 * 64).from_address(pinned)
    address, stream = on.malloc(64), on.pointer("aclrtCreateStream")
    view[0] = 1
    assert on.aclrtMemcpyAsync(address, 64, pinned, 64, H2D, stream) == 0
    view[0] = 2  # too early: the copy has not happened
    assert on.aclrtSynchronizeStream(stream) == 0
    back = (ctypes.c_uint8 * 64)()
    assert on.aclrtMemcpy(back, 64, address, 64, D2H) == 0
    assert back[0] == 2
    assert on.aclrtMemcpyAsync(address, 64, pinned, 64, H2D, stream) == 0
    assert on.aclrtFree(address) == 0
    assert on.aclrtSynchronizeStream(stream) == 507013
    assert on.aclrtSynchronizeStream(stream) == 0  # reported once
    assert on.aclrtDestroyStream(stream) == 0
    assert on.aclrtFreeHost(pinned) == 0


def test_pinned_memory_must_live_until_the_copy_has_happened(on):
    pinned, address = on.pointer("aclrtMallocHost", 64), on.malloc(64)
    stream = on.pointer("aclrtCreateStream")
    assert on.aclrtMemcpyAsync(address, 64, pinned, 64, H2D, stream) == 0
    assert on.aclrtFreeHost(pinned) == 0
    assert on.aclrtSynchronizeStream(stream) == 507013
    assert b"pinned memory of a copy was freed" in on.aclGetRecentErrMsg()
    assert on.aclrtDestroyStream(stream) == on.aclrtFree(address) == 0


def test_streams_and_events(on, device):
    device.configure(max_streams=2)
    first, second = on.pointer("aclrtCreateStream"), on.pointer("aclrtCreateStream")
    assert on.aclrtCreateStream(ctypes.byref(ctypes.c_void_p())) == 207008
    start = on.pointer("aclrtCreateEventExWithFlag", 8)
    end = on.pointer("aclrtCreateEventExWithFlag", 8)
    ms = ctypes.c_float()
    assert on.aclrtEventElapsedTime(ctypes.byref(ms), start, end) == 107000
    assert on.aclrtRecordEvent(start, first) == 0
    assert on.aclrtStreamWaitEvent(second, start) == 0
    assert on.aclrtRecordEvent(end, second) == 0
    status = ctypes.c_int(9)
    assert on.aclrtQueryEventStatus(end, ctypes.byref(status)) == 0
    assert status.value == 0
    assert on.aclrtSynchronizeEvent(end) == 0
    assert on.aclrtQueryEventStatus(end, ctypes.byref(status)) == 0
    assert status.value == 1
    assert on.aclrtEventElapsedTime(ctypes.byref(ms), start, end) == 0
    assert ms.value >= 0
    assert on.aclrtSynchronizeStream(start) == 107000  # an event is no stream
    assert on.aclrtRecordEvent(first, second) == 107000
    for event in (start, end):
        assert on.aclrtDestroyEvent(event) == 0
        assert on.aclrtDestroyEvent(event) == 107000
    for stream in (first, second):
        assert on.aclrtDestroyStream(stream) == 0
        assert on.aclrtDestroyStream(stream) == 107000


def test_waiting_for_an_event_that_never_comes(on, device):
    first, second = on.pointer("aclrtCreateStream"), on.pointer("aclrtCreateStream")
    event = on.pointer("aclrtCreateEvent")
    device.configure(async_exec_us=10_000_000, copy_us=10_000_000)
    address, pinned = on.malloc(8), on.pointer("aclrtMallocHost", 8)
    assert on.aclrtMemcpyAsync(address, 8, pinned, 8, H2D, first) == 0
    assert on.aclrtRecordEvent(event, first) == 0
    assert on.aclrtStreamWaitEvent(second, event) == 0
    assert on.aclrtSynchronizeStreamWithTimeout(second, 20) == 507046
    assert on.aclrtSynchronizeEventWithTimeout(event, 20) == 507047
    device.configure(release_hangs=1)
    assert on.aclrtSynchronizeStream(second) == 0
    for stream in (first, second):
        assert on.aclrtDestroyStream(stream) == 0
    assert on.aclrtDestroyEvent(event) == 0
    assert on.aclrtFree(address) == 0
    assert on.aclrtFreeHost(pinned) == 0


def test_loading(raw, tmp_path, om):
    found = ctypes.c_uint32()
    assert raw.aclmdlLoadFromFile(raw.path, ctypes.byref(found)) == 145001
    assert raw.aclInit(None) == 0
    assert raw.aclmdlLoadFromFile(raw.path, ctypes.byref(found)) == 107002
    assert raw.aclrtSetDevice(0) == 0
    assert raw.aclmdlLoadFromFile(None, ctypes.byref(found)) == 145002
    assert raw.aclmdlLoadFromFile(b"/nowhere/m.om", ctypes.byref(found)) == 145002
    assert raw.aclmdlLoadFromFile(str(tmp_path).encode(), ctypes.byref(found)) == 145002
    data = om("static").read_bytes()
    for bad in (data[:100], b"XXXX" + data[4:], data[:-1], data + b"x"):
        assert raw.aclmdlLoadFromMem(bad, len(bad), ctypes.byref(found)) == 145006
    work, weight = ctypes.c_size_t(), ctypes.c_size_t()
    assert raw.aclmdlQuerySize(raw.path, ctypes.byref(work), ctypes.byref(weight)) == 0
    assert (work.value, weight.value) == (512, 64)
    dynamic = str(om("dynamic")).encode()
    assert raw.aclmdlQuerySize(dynamic, ctypes.byref(work), ctypes.byref(weight)) == 145000
    a, b = raw.malloc(512), raw.malloc(64)
    code = raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(found), a, 511, b, 64)
    assert code == 145000
    code = raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(found), a, 512, b, 64)
    assert code == 0
    assert raw.aclmdlUnload(found.value) == 0
    assert raw.aclmdlUnload(found.value) == 145003
    assert raw.aclmdlUnload(99999) == 145003
    assert raw.aclrtFree(a) == 0
    assert raw.aclrtFree(b) == 0
    raw.stop()


def test_soc_mismatch(on, device):
    device.configure(soc="Ascend910B3")
    assert on.aclmdlLoadFromFile(on.path, ctypes.byref(ctypes.c_uint32())) == 545001
    assert b"model is for Ascend310P3" in on.aclGetRecentErrMsg()
    device.configure(soc="Ascend310P3")
    assert on.aclmdlUnload(on.load()) == 0


def test_executing(on, device):
    model = on.load()
    inputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    outputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    assert on.aclmdlExecute(model, inputs, outputs) == 0
    assert on.aclmdlExecute(model + 1, inputs, outputs) == 145003
    assert on.aclmdlExecute(model, None, outputs) == 100000
    few = on.dataset((on.malloc(32), 32))
    assert on.aclmdlExecute(model, few, outputs) == 100000
    assert on.aclmdlExecute(model, inputs, few) == 100000
    null = on.dataset((None, 0), (None, 0))
    assert on.aclmdlExecute(model, null, outputs) == 100000
    # A run with outputs of nobody: the library allocates, also when the run fails.
    assert on.aclmdlExecute(model, inputs, null) == 0
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    on.drop(null)
    null = on.dataset((None, 0), (None, 0))
    device.fault("aclmdlExecute", 1, 507011, "EZ9999")
    assert on.aclmdlExecute(model, inputs, null) == 507011
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    on.drop(null)
    null = on.dataset((None, 0), (None, 0))
    config = on.aclmdlCreateExecConfigHandle()
    device.fault("aclmdlExecuteV2", 1, 507011, "EZ9999")
    assert on.aclmdlExecuteV2(model, inputs, null, None, config) == 507011
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    assert on.aclmdlExecuteV2(model, inputs, null, None, None) == 100000
    assert on.aclmdlDestroyExecConfigHandle(config) == 0
    for dataset in (inputs, outputs, few, null):
        on.drop(dataset)
    assert on.aclmdlUnload(model) == 0
    assert on.aclmdlExecute(model, None, None) == 145003


def test_executing_later_with_a_configuration(on):
    model, stream = on.load(), on.pointer("aclrtCreateStream")
    inputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    outputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    config = on.aclmdlCreateExecConfigHandle()
    assert on.aclmdlExecuteAsyncV2(model, inputs, outputs, stream, None) == 100000
    assert on.aclmdlExecuteAsyncV2(model, inputs, outputs, stream, config) == 0
    assert on.aclrtSynchronizeStream(stream) == 0
    assert on.aclmdlDestroyExecConfigHandle(config) == on.aclrtDestroyStream(stream) == 0
    on.drop(inputs)
    on.drop(outputs)
    assert on.aclmdlUnload(model) == 0


def test_short_inputs(device, tmp_path):
    """The real check is one-sided and generous by 64 bytes."""
    from sim_files import gear_payload, write

    raw = Raw(device, str(write(tmp_path / "m.om", gear_payload("dims"))))
    raw.start()
    model = raw.load()
    inputs = raw.dataset((raw.malloc(32), 32), (raw.malloc(128), 128), (raw.malloc(32), 32))
    outputs = raw.dataset((raw.malloc(128), 128), (raw.malloc(128), 128))
    gear = dims(4, 8, 4, 8)
    for code in (145000, 500002):
        device.configure(short_input_code=code)
        assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(gear)) == 0
        assert raw.aclmdlExecute(model, inputs, outputs) == code
        assert b"E13025" in raw.aclGetRecentErrMsg()
    raw.drop(inputs)
    raw.drop(outputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_gears(device, om):
    raw = Raw(device, str(om("batch")))
    raw.start()
    model = raw.load()
    blocks = [(raw.malloc(64), 64) for _ in range(2)]
    inputs = raw.dataset(*blocks, (raw.malloc(8), 8))
    outputs = raw.dataset((raw.malloc(64), 64), (raw.malloc(64), 64))
    assert raw.aclmdlExecute(model, inputs, outputs) == 145000  # no gear set
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 0) == 100000
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 3) == 145013
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 0, 2) == 100000
    assert raw.aclmdlSetDynamicBatchSize(99, inputs, 2, 2) == 145003
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 2) == 0
    assert raw.aclmdlExecute(model, inputs, outputs) == 0
    assert raw.aclmdlExecute(model, inputs, outputs) == 145000  # set it before every run
    small = raw.dataset(*[(raw.malloc(64), 64) for _ in range(2)], (raw.malloc(4), 4))
    assert raw.aclmdlSetDynamicBatchSize(model, small, 2, 2) == 145012
    null = raw.dataset(*[(raw.malloc(64), 64) for _ in range(2)], (None, 0))
    assert raw.aclmdlSetDynamicBatchSize(model, null, 2, 2) == 100000
    desc = raw.aclmdlCreateDesc()
    assert raw.aclmdlGetDesc(desc, model) == 0
    count = ctypes.c_size_t()
    assert raw.aclmdlGetInputDynamicGearCount(desc, 0, ctypes.byref(count)) == 100000
    assert raw.aclmdlDestroyDesc(desc) == 0
    for dataset in (inputs, outputs, small, null):
        raw.drop(dataset)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_static_models_and_wrong_dims_have_no_gear(device, om):
    raw = Raw(device, str(om("static")))
    raw.start()
    model = raw.load()
    inputs = raw.dataset(*[(raw.malloc(32), 32) for _ in range(3)])
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 2) == 145013
    assert raw.aclmdlUnload(model) == 0
    raw.path = str(om("dims")).encode()
    model = raw.load()
    wrong, none = dims(1, 4, 1), dims()
    assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(wrong)) == 145012
    assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(none)) == 100000
    raw.drop(inputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_dynamic_models(device, om):
    raw = Raw(device, str(om("dynamic")))
    raw.start()
    model = raw.load()
    desc = raw.aclmdlCreateDesc()
    raw.aclmdlGetDesc(desc, model)
    shape = dims()
    assert raw.aclmdlGetCurOutputDims(desc, 0, ctypes.byref(shape)) == 200001
    assert raw.aclmdlDestroyDesc(desc) == 0
    inputs = raw.dataset(*[(raw.malloc(512), 512) for _ in range(2)])
    outputs = raw.dataset((raw.malloc(8), 8), (None, 0))

    def give(*sizes):
        for index in range(2):
            made = raw.aclCreateTensorDesc(0, len(sizes), (ctypes.c_int64 * 2)(*sizes), 2)
            assert raw.aclmdlSetDatasetTensorDesc(inputs, made, index) == 0
            raw.aclDestroyTensorDesc(made)  # copied

    give(9, 4)
    assert raw.aclmdlExecute(model, inputs, outputs) == 100000
    give(2, 4)
    assert raw.aclmdlExecute(model, inputs, outputs) == 500002
    assert b"E13031" in raw.aclGetRecentErrMsg()
    buffer = raw.aclmdlGetDatasetBuffer(outputs, 0)
    raw.aclrtFree(raw.aclGetDataBufferAddr(buffer))
    raw.aclUpdateDataBuffer(buffer, None, 0)
    assert raw.aclmdlExecute(model, inputs, outputs) == 0
    made = raw.aclmdlGetDatasetTensorDesc(outputs, 0)
    assert raw.aclGetTensorDescNumDims(made) == 2
    assert raw.aclmdlSetDatasetTensorDesc(inputs, None, 5) == 100000
    raw.drop(inputs)
    raw.drop(outputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_dump(raw):
    assert raw.aclmdlInitDump() == 100001
    raw.start()
    assert raw.aclmdlInitDump() == 0
    assert raw.aclmdlInitDump() == 100044
    assert raw.aclmdlFinalizeDump() == 0
    assert raw.aclmdlFinalizeDump() == 100045
    raw.stop()


def test_dump_of_the_init_configuration(raw, tmp_path):
    path = tmp_path / "acl.json"
    path.write_text('{"dump": {"dump_path": "."}}')
    assert raw.aclInit(str(path).encode()) == 0
    assert raw.aclmdlInitDump() == 100044
    assert raw.aclFinalize() == 0


def test_data_buffers(on):
    made = on.aclCreateDataBuffer(None, 0)
    assert made
    assert on.aclGetDataBufferAddr(made) is None
    assert on.aclDestroyDataBuffer(None) == 100000
    assert on.aclUpdateDataBuffer(None, None, 0) == 100000
    assert on.aclDestroyDataBuffer(made) == 0
    assert on.aclDestroyDataBuffer(made) != 0


def test_null_pointers_for_results_are_refused(on):
    stream, event = on.pointer("aclrtCreateStream"), on.pointer("aclrtCreateEvent")
    desc, size = on.aclmdlCreateDesc(), ctypes.byref(ctypes.c_size_t())
    calls = (
        ("aclrtCreateStream", None), ("aclrtCreateStreamWithConfig", None, 0, 0),
        ("aclrtCreateEvent", None), ("aclrtCreateEventExWithFlag", None, 8),
        ("aclrtStreamQuery", stream, None), ("aclrtQueryEventStatus", event, None),
        ("aclrtEventElapsedTime", None, event, event), ("aclrtGetVersion", None, None, None),
        ("aclrtGetDevice", None), ("aclrtGetDeviceCount", None), ("aclrtGetRunMode", None),
        ("aclrtGetCurrentContext", None), ("aclrtGetMemInfo", 1, None, size),
        ("aclmdlQuerySize", on.path, None, size), ("aclmdlQuerySizeFromMem", b"x", 1, size, None),
        ("aclmdlGetInputDimsRange", desc, 0, None),
        ("aclmdlGetInputIndexByName", desc, None, size),
        ("aclmdlGetOutputIndexByName", desc, b"x", None),
    )  # fmt: skip
    for name, *arguments in calls:
        assert getattr(on, name)(*arguments) == 100000, name
        assert b"must not be null" in on.aclGetRecentErrMsg()
    assert on.aclmdlDestroyDesc(desc) == on.aclrtDestroyEvent(event) == 0
    assert on.aclrtDestroyStream(stream) == 0


def test_descriptions_of_what_is_not_there(on):
    desc = on.aclmdlCreateDesc()
    assert on.aclmdlGetDesc(desc, 12345) == 145003
    model = on.load()
    assert on.aclmdlGetDesc(desc, model) == 0
    for index in (2, 99, 2**63):
        assert on.aclmdlGetInputNameByIndex(desc, index) == b""
        assert on.aclmdlGetOutputNameByIndex(desc, index) == b""
        assert on.aclmdlGetInputSizeByIndex(desc, index) == 0
        assert on.aclmdlGetOutputSizeByIndex(desc, index) == 0
        assert on.aclmdlGetInputDataType(desc, index) == -1
        assert on.aclmdlGetOutputDataType(desc, index) == -1
        assert on.aclmdlGetInputFormat(desc, index) == -1
        assert on.aclmdlGetInputDims(desc, index, ctypes.byref(dims())) != 0
    assert on.aclmdlUnload(model) == 0
    assert on.aclmdlDestroyDesc(desc) == 0


@pytest.mark.parametrize("code", [507010, 507015, 507899])
def test_a_dead_device_stays_dead_until_it_is_reset(code, raw, device):
    device.configure(sticky=1)
    raw.start()
    model, found = raw.load(), ctypes.c_void_p()
    inputs = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
    outputs = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
    device.fault("exec", 1, code, "EZ9999: gone")
    for _ in range(2):  # the fault was for one run, the device is gone for all
        assert raw.aclmdlExecute(model, inputs, outputs) == code
        assert raw.aclrtMalloc(ctypes.byref(found), 8, 0) == code
        assert raw.aclrtSynchronizeDevice() == code
    for dataset in (inputs, outputs):
        raw.drop(dataset)
    raw.aclmdlUnload(model)
    assert raw.aclrtResetDevice(0) == 0
    assert raw.aclrtSetDevice(0) == 0
    assert raw.aclrtFree(raw.malloc(8)) == 0
    raw.stop()


FORGIVEN = {
    "finalize before init": """
raw.aclrtResetDevice(0)
raw.aclFinalize()
device.reset()
raw.aclFinalize()
""",
    "context destroyed with a live stream": """
own = raw.pointer("aclrtCreateContext", 0)
stream = raw.pointer("aclrtCreateStream")
raw.aclrtDestroyContext(own)
""",
    "memcpy kind 2 does not fit": """
address = raw.malloc(8)
raw.aclrtMemcpy(address, 8, (ctypes.c_uint8 * 8)(), 8, 2)
""",
    "asynchronous copy with pageable host memory": """
raw.aclrtMemcpyAsync(raw.malloc(8), 8, (ctypes.c_uint8 * 8)(), 8, 1,
                     raw.pointer("aclrtCreateStream"))
""",
    "data buffer destroyed while a dataset holds it": """
made = raw.dataset((None, 0))
raw.aclDestroyDataBuffer(raw.aclmdlGetDatasetBuffer(made, 0))
""",
    "stream waits for an event that was never recorded": """
raw.aclrtStreamWaitEvent(raw.pointer("aclrtCreateStream"), raw.pointer("aclrtCreateEvent"))
""",
    "asynchronous run without an output buffer": """
ins = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
raw.aclmdlExecuteAsync(raw.load(), ins, raw.dataset((None, 0), (None, 0)),
                       raw.pointer("aclrtCreateStream"))
""",
    "model executed on two streams at the same time": """
ins = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
outs = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
model = raw.load()
for _ in range(2):
    raw.aclmdlExecuteAsync(model, ins, outs, raw.pointer("aclrtCreateStream"))
""",
    "of loaded model 1 freed before unload": """
a, b = raw.malloc(512), raw.malloc(64)
raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(ctypes.c_uint32()), a, 512, b, 64)
raw.aclrtFree(a)
""",
    "workspace shared with a model that is running": """
a, stream = raw.malloc(512), raw.pointer("aclrtCreateStream")
models = []
for _ in range(2):
    found = ctypes.c_uint32()
    raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(found), a, 512, raw.malloc(64), 64)
    models.append(found.value)
ins = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
outs = raw.dataset((raw.malloc(32), 32), (raw.malloc(32), 32))
raw.aclmdlExecuteAsync(models[0], ins, outs, stream)
raw.aclmdlExecute(models[1], ins, outs)
""",
    "memory given to a model is not that much device memory": """
a = raw.malloc(256)
raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(ctypes.c_uint32()), a, 512, a, 64)
""",
    "device memory freed under another device": """
a = raw.malloc(8)
raw.aclrtSetDevice(1)
raw.aclrtFree(a)
""",
    "device reset with memory allocated": """
raw.malloc(8)
raw.aclrtResetDevice(0)
""",
    "finalize with live resources": """
raw.malloc(8)
raw.aclFinalize()
""",
    "aclrtMalloc called after finalize": """
raw.aclrtResetDevice(0)
raw.aclFinalize()
raw.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), 8, 0)
""",
    "model unloaded in another context": """
model = raw.load()
raw.pointer("aclrtCreateContext", 0)
raw.aclmdlUnload(model)
""",
    "stale tensor description used": """
made = raw.aclCreateTensorDesc(0, 1, (ctypes.c_int64 * 1)(3), 2)
raw.aclDestroyTensorDesc(made)
raw.aclGetTensorDescNumDims(made)
""",
    "dump started after a model was loaded": """
raw.load()
raw.aclmdlInitDump()
""",
}

SCRIPT = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from omfuse.sim.device import simulated_device
from raw import Raw
device = simulated_device()
raw = Raw(device, sys.argv[2])
raw.start()
{body}
print(device.report()["violations"])
"""


def child(body, om, timeout=120):
    from pathlib import Path

    command = [sys.executable, "-c", SCRIPT.format(body=body), str(Path(__file__).parent)]
    return subprocess.run(
        [*command, str(om("static"))], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("said", FORGIVEN)
def test_what_the_real_library_forgives_is_noted(said, om, device):
    done = child(FORGIVEN[said], om)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "ctypes.string_at(raw.malloc(64), 1)",
        "ctypes.string_at(raw.pointer('aclrtCreateStream'), 1)",
        "a = raw.malloc(64); raw.aclrtFree(a); ctypes.memset(a, 0, 1)",
    ],
    ids=["device memory", "handle", "freed memory"],
)
def test_device_addresses_and_handles_cannot_be_read(body, om, device):
    done = child(body, om)
    assert done.returncode == -11, (done.returncode, done.stderr)


def test_fork_is_refused(om, device):
    body = """
import os
pid = os.fork()
if pid == 0:
    os._exit(raw.aclrtSynchronizeDevice() == 507000 and 7)
raw.library.journal = print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = child(body, om)
    assert "child 7" in done.stdout, done.stderr
