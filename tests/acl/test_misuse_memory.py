"""What the simulated library says to misuse of memory, copies, streams and events."""

import ctypes

from raw import D2H, H2D

NOWHERE = 0x1234


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
