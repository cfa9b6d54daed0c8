"""A whole session where there is only Python 3.8 and numpy; run by ``test_old_boards.py``.

Arguments: the simulated library, then models of ``sim_files``.  The sums that these models make
are computed here, with numpy; everything else is the session of a board.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

from omfuse.acl.constants import numpy_dtype
from omfuse.acl.device_session import DeviceSession
from omfuse.acl.library import AclLibrary
from omfuse.errors import UsageError
from omfuse.sim.model_text import describe, encode
from omfuse.sim.payload import load_payload

pointer, size = ctypes.c_void_p, ctypes.c_uint64


class HostTensor(ctypes.Structure):
    _fields_ = (
        ("data", pointer),
        ("bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


def array_of(tensor):
    raw = (ctypes.c_uint8 * tensor.bytes).from_address(tensor.data)
    shape = tensor.dims[: tensor.ndim]
    return np.frombuffer(raw, np.uint8).view(numpy_dtype(tensor.dtype)).reshape(shape).copy()


def use(library, path):
    a, b = np.ones((2, 4), np.float32), np.full((2, 4), 2, np.float32)
    with DeviceSession(path, library, "sim", timeout=60) as session:
        made = session.run({"a": a, "b": b})
        assert (made["total"] == 3).all()
        for made in session.map([{"a": a, "b": b}] * 4, 3):
            assert (made["twice"] == 6).all()
        session.bind("total", "a")
        session.run({"a": a, "b": b})
        assert (session.run({"b": b}, ["total"])["total"] == 5).all()
        said = ""
        try:
            session.run({"a": a[:, :3], "b": b[:, :2]})
        except UsageError as error:
            said = error.hint
        assert said
        return session.mode


def main(path, *models):
    device = ctypes.CDLL(path)
    device.simacl_answer.argtypes = (ctypes.c_char_p, size)
    device.simacl_output.argtypes = (
        pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer, pointer, size,
    )  # fmt: skip
    device.simacl_report.argtypes, device.simacl_report.restype = (pointer, size), size

    def load(key, name, data, length):
        answer = encode(describe(load_payload(name.decode())))
        device.simacl_answer(answer, len(answer))

    def run(key, count, inputs, call):
        total = array_of(inputs[0]) + array_of(inputs[1])
        for index, made in enumerate((total, total * 2)):
            dims = (ctypes.c_int64 * made.ndim)(*made.shape)
            device.simacl_output(call, index, 0, made.ndim, dims, made.ctypes.data, made.nbytes)

    callbacks = (
        ctypes.CFUNCTYPE(None, size, ctypes.c_char_p, pointer, size)(load),
        ctypes.CFUNCTYPE(None, size, ctypes.c_int, ctypes.POINTER(HostTensor), pointer)(run),
        ctypes.CFUNCTYPE(None, size)(lambda key: None),
    )
    device.simacl_set_callbacks(*callbacks)
    library = AclLibrary(Path(path), share_symbols=False)
    modes = [use(library, model) for model in models]
    text = ctypes.create_string_buffer(1 << 22)
    device.simacl_report(text, len(text))
    report = json.loads(text.value.decode())
    return {
        "python": list(sys.version_info[:2]),
        "modes": modes,
        "leaks": report["leaks"],
        "violations": report["violations"],
        "foreign": sorted(
            {name.split(".")[0] for name in sys.modules}
            & {"onnx", "onnxruntime", "ml_dtypes", "typer", "rich", "google"}
        ),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
