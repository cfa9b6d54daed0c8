"""Dead devices, and what the real library forgives and the simulated one notes."""

import ctypes
import subprocess
import sys

import pytest

NOWHERE = 0x1234


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
