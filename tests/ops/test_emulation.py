"""The emulated machine: numbers as documented, and each broken rule of the device is reported."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from omfuse.host import native
from omfuse.ops import emulator

PROBES = Path(__file__).with_name("emulation_probes.cc")
EMULATION = emulator.SOURCES / "emulation"
ENGINE = [EMULATION / "src" / f"{n}.cc" for n in ("check", "core", "machine", "matrix", "memory")]
ARCHES = list(emulator.ARCHES)


def compiler() -> str:
    tool = native.compiler()
    if tool is None:
        pytest.skip("no C++ compiler")
    return tool


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    built = {}
    for arch, number in emulator.ARCHES.items():
        flags = ("-std=c++17", "-O1", "-fPIC", "-w", f"-D__CCE_AICORE__={number}",
                 f"-I{EMULATION / 'include'}")  # fmt: skip
        library = tmp_path_factory.mktemp("probes") / arch / "libprobes.so"
        units = dict.fromkeys([*ENGINE, PROBES], flags)
        built[arch] = ctypes.CDLL(str(native.build(library, compiler(), units)))
    return built


def run(
    library: ctypes.CDLL, name: str, first: np.ndarray | None = None,
    other: np.ndarray | None = None, schedule: int = 0,
) -> tuple[int, np.ndarray, str]:  # fmt: skip
    """Run a probe; return its code, the bytes of its output and what it said."""
    buffers = [np.zeros(4096, np.uint8) for _ in range(3)]
    for buffer, data in zip(buffers, (first, other), strict=False):
        if data is not None:
            buffer[: data.nbytes] = data.reshape(-1).view(np.uint8)
    message = ctypes.create_string_buffer(512)
    pointers = [ctypes.c_void_p(b.ctypes.data) for b in buffers]
    code = library.probe(name.encode(), schedule, *pointers, message)
    return code, buffers[2], message.value.decode()


def test_half_and_bfloat16_round_to_nearest_even(probes: dict[str, ctypes.CDLL]) -> None:
    library = probes["910b"]
    rng = np.random.default_rng(0)
    every = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        halves = np.nextafter(every, np.float32(0)), np.nextafter(every, np.float32(np.inf))
        steps = (every[:-1].astype(np.float64) + every[1:]).astype(np.float32) / 2
    bits = rng.integers(0, 2**32, 200000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    for values in (every, *halves, bits, steps, np.float32([65519.9, 65520, 65536, 1e-8, -0.0])):
        values = np.ascontiguousarray(values)
        for bf16, dtype in ((0, np.float16), (1, ml_dtypes.bfloat16)):
            got = np.zeros(values.size, np.uint16)
            library.to_half(values.ctypes.data_as(ctypes.c_void_p),
                            got.ctypes.data_as(ctypes.c_void_p), values.size, bf16)  # fmt: skip
            with np.errstate(all="ignore"):
                wanted = values.astype(dtype)
            same = got == wanted.view(np.uint16)
            assert (same | np.isnan(values)).all()
            assert np.isnan(got.view(dtype).astype(np.float32))[np.isnan(values)].all()
    back = np.zeros(65536, np.float32)
    codes = np.arange(65536, dtype=np.uint16)
    library.from_half(codes.ctypes.data_as(ctypes.c_void_p),
                      back.ctypes.data_as(ctypes.c_void_p), 65536)  # fmt: skip
    assert np.array_equal(back, every, equal_nan=True)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("schedule", [0, 1])
def test_vector_instructions(probes: dict[str, ctypes.CDLL], arch: str, schedule: int) -> None:
    values = np.random.default_rng(1).standard_normal(1024).astype(np.float32)
    code, out, said = run(probes[arch], "CastDown", values, schedule=schedule)
    assert code == 0, said
    assert np.array_equal(out[:2048].view(np.float16), values.astype(np.float16))
    code, out, said = run(probes[arch], "ReduceAndSpread", values, schedule=schedule)
    assert code == 0, said
    rows = values[:512].reshape(64, 8)
    assert np.array_equal(out[:2048].view(np.float32), (rows - rows.max(1, keepdims=True)).ravel())
    code, out, said = run(probes[arch], "StridesAndMasks", values, schedule=schedule)
    assert code == 0, said
    wanted = values.reshape(64, 16).copy()
    wanted[:, :8] *= 3
    wanted = wanted.reshape(16, 64)
    wanted[:, [1, 9]] = -1
    assert np.array_equal(out.view(np.float32), wanted.ravel())


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("schedule", [0, 1])
def test_additions_and_scalars(probes: dict[str, ctypes.CDLL], arch: str, schedule: int) -> None:
    rows = np.random.default_rng(3).standard_normal((2, 16)).astype(np.float16)
    code, out, said = run(probes[arch], "Additions", rows, schedule=schedule)
    assert code == 0, said
    wanted = np.zeros(2048, np.float16)
    wanted[:16] += rows[0]
    wanted[8:24] += rows[1]
    assert np.array_equal(out.view(np.float16), wanted)
    values = np.arange(64, dtype=np.float32)
    code, out, said = run(probes[arch], "Scalars", values, schedule=schedule)
    assert code == 0, said
    assert np.array_equal(out[:128].view(np.float32), 2 * values[::2])


def test_cube_instructions(probes: dict[str, ctypes.CDLL]) -> None:
    rng = np.random.default_rng(2)
    left = rng.integers(-8, 8, (32, 48)).astype(np.float16)
    right = rng.integers(-8, 8, (48, 32)).astype(np.float16)
    code, out, said = run(probes["910b"], "Multiply", left, right)
    assert code == 0, said
    wanted = left.astype(np.float32) @ right.astype(np.float32)
    assert np.array_equal(out.view(np.float32).reshape(32, 32), wanted)


BROKEN = {
    "TooMuchMemory": "do not fit in UB",
    "OddLength": "not a multiple of 32 bytes",
    "WaitWithoutSet": "has no SetFlag",
    "SetWithoutWait": "never waited for",
    "ReadNothing": "nothing has written",
    "BeyondTheEnd": "beyond its 4096",
    "WriteAnInput": "an input of the kernel",
    "NoBarrier": "without waiting for the write",
    "AddTooEarly": "without waiting for the write",
    "AddToNothing": "which nothing has written",
    "AddForever": "never switched off",
    "AddAnotherType": "another type",
    "ScalarTooEarly": "without waiting for the write",
    "TooDeep": "more tensors than the depth",
    "NoBufferLeft": "every buffer of the queue is in use",
    "Misaligned": "not aligned to 32",
    "WrongPlace": "without memory",
    "SameOutput": "without waiting for the write",
    "SetTwice": "is set twice",
    "EmptyBuffer": "len 0 is outside",
    "NoBursts": "blockCount 0 is outside",
    "PartlyInPlace": "overlaps a part of the destination",
    "MaskTooWide": "lanes beyond a repeat",
}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_rules_are_reported(probes: dict[str, ctypes.CDLL], arch: str, name: str) -> None:
    values = np.ones(1024, np.float32)
    code, _, said = run(probes[arch], name, values, values)
    assert code == 1
    assert BROKEN[name] in said


def test_cube_cores_have_rules_of_their_own(probes: dict[str, ctypes.CDLL]) -> None:
    assert "M_MTE1 event 1 is set twice" in run(probes["910b"], "LibraryFlag")[2]
    assert "without a PipeBarrier after it" in run(probes["910b"], "AddTooSoon")[2]


def test_cross_core_flags_have_limits(probes: dict[str, ctypes.CDLL]) -> None:
    assert "beyond 15" in run(probes["910b"], "TooManyFlags")[2]
    for schedule in (0, 1):
        assert run(probes["910b"], "WaitForNobody", schedule=schedule)[2].startswith("deadlock")


LACKING = {
    "DataCopyPad": "LocalTensor<half> a; GlobalTensor<half> g; DataCopyPad(g, a, {1, 8, 0, 0, 0});",
    "Fixpipe": "GlobalTensor<float> g; LocalTensor<float> c; "
    "Fixpipe<float, float, CFG_NZ>(g, c, FixpipeParamsV220());",
    "CrossCoreSetFlag": "CrossCoreSetFlag<2, PIPE_MTE3>(0);",
    "CrossCoreWaitFlag": "CrossCoreWaitFlag(0);",
    "Mmad bf16": "LocalTensor<float> c; LocalTensor<bfloat16_t> a; Mmad(c, a, a, MmadParams());",
}


@pytest.mark.parametrize("name", LACKING)
def test_310p_has_no_such_call(name: str, tmp_path: Path) -> None:
    source = tmp_path / "probe.cc"
    body = LACKING[name]
    source.write_text(
        f'#include "kernel_operator.h"\nusing namespace AscendC;\nvoid probe() {{ {body} }}\n'
    )
    codes = {}
    for arch, number in emulator.ARCHES.items():
        command = [compiler(), "-std=c++17", "-fsyntax-only", "-w", f"-D__CCE_AICORE__={number}",
                   f"-I{EMULATION / 'include'}", str(source)]  # fmt: skip
        codes[arch] = subprocess.run(command, capture_output=True, check=False).returncode
    assert codes["910b"] == 0
    assert codes["310p"] != 0
