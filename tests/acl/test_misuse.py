"""What the simulated library says to misuse of devices, contexts and threads."""

import ctypes
import threading
import time

from sim_files import feeds

from omfuse.session import open_session

NOWHERE = 0x1234


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
