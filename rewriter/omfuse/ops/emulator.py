"""The Ascend C kernel on this CPU: built once from its unchanged source, called through ctypes.

``custom_ops/emulation`` declares the Ascend C API for the host, so the kernel of
``custom_ops/flash_attention/op_kernel`` compiles with the machine's C++ compiler. One library an
architecture lies in the user's cache under a hash of all sources. Numbers are rounded as the device
rounds; counters and cycles are a model.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from omfuse.errors import ModelError, NotAvailableError, ToolchainError
from omfuse.fuse.contract import CAUSAL, LAYOUTS, MASKED_ROWS, FlashAttentionAttrs
from omfuse.host import native
from omfuse.ops.emulator_abi import Counters, Options, Plan, Platform, Problem, Tensors, Tiling

Array = NDArray[Any]

SOURCES = Path(__file__).resolve().parent.parent / "custom_ops"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-w")
ARCHES = {"910b": 220, "310p": 200}  # name -> __CCE_AICORE__
PIPES = ("S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX")
_DTYPES = {np.dtype(np.float16): 0, np.dtype(ml_dtypes.bfloat16): 1, np.dtype(np.float32): 2}
_MESSAGE = 1024
_REJECTED, _BAD_CALL = 1, 3

PLATFORMS = {
    "910b": Platform(192 << 10, 512 << 10, 64 << 10, 64 << 10, 128 << 10, 192 << 20, 20, 40, 1),
    "310p": Platform(256 << 10, 1024 << 10, 64 << 10, 64 << 10, 256 << 10, 16 << 20, 8, 15, 0),
}
"""Memory and cores of Ascend910B3 and Ascend310P3."""


class KernelViolationError(ToolchainError):
    """The kernel broke a rule of the device: a race, a bound, a flag (exit 3)."""


@dataclass(frozen=True)
class Emulated:
    """Outputs of one run (None when only costs were counted) and what it cost."""

    output: Array | None
    lse: Array | None
    counters: Counters


def sources(root: Path = SOURCES) -> list[Path]:
    """Return every file that decides what the library is."""
    folders = ("emulation", "emulation/include", "emulation/src")
    ours = [root / name for name in folders]
    ours += [root / "flash_attention" / name for name in ("op_kernel", "op_host")]
    wanted = {".h", ".cc", ".cpp"}
    found = [p for folder in ours for p in folder.iterdir() if p.suffix in wanted]
    host_only = {"flash_attention.cpp"}  # the operator's glue, which needs CANN's headers
    return [p for p in found if not (p.parent.name == "op_host" and p.name in host_only)]


def build(arch: str, root: Path = SOURCES) -> Path:
    """Return the path of the emulated kernel library, building it when needed.

    Args:
        arch: ``910b`` or ``310p``.
        root: folder of ``emulation`` and ``flash_attention``; another one for experiments.

    Raises:
        NotAvailableError: ``no-compiler`` or ``not-linux``.
        ToolchainError: ``emulator-build-failed``.
    """
    if not sys.platform.startswith("linux"):
        raise NotAvailableError("not-linux", f"the emulator is not built on {sys.platform}")
    tool = native.compiler()
    if tool is None:
        raise NotAvailableError(
            "no-compiler",
            "the emulated kernel needs a C++17 compiler once",
            hint="install g++ or clang++",
        )
    flags = (*FLAGS, f"-D__CCE_AICORE__={ARCHES[arch]}", f"-I{root / 'emulation' / 'include'}")
    files = sources(root)
    digest = native.digest(tool, files, FLAGS, arch)
    library = native.cache_dir() / "emulator" / digest / f"libomfuse_ascendc_{arch}.so"
    plan = root / "flash_attention" / "op_host" / "tiling_plan.cc"
    units = dict.fromkeys([*sorted((root / "emulation" / "src").glob("*.cc")), plan], flags)
    try:
        return native.build(library, tool, units, what=f"the emulated kernel for {arch}")
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(
            "emulator-build-failed",
            f"the emulated kernel does not compile: {native.brief(error)}",
            where=tool,
            hint="a C++17 compiler is needed: g++ 9 or clang++ 10 and later",
        ) from error


@functools.cache
def load(library: Path) -> ctypes.CDLL:
    """Load a library that :func:`build` made."""
    loaded = ctypes.CDLL(str(library))
    pointer, text, size = ctypes.POINTER, ctypes.c_char_p, ctypes.c_uint64
    loaded.omfuse_emulation_plan.argtypes = [
        pointer(Problem), pointer(Platform), pointer(Tiling), pointer(Plan), text, size,
    ]  # fmt: skip
    loaded.omfuse_emulation_run.argtypes = [
        pointer(Problem), pointer(Platform), pointer(Tensors), pointer(Options),
        pointer(Counters), text, size,
    ]  # fmt: skip
    return loaded


def problem_of(
    attrs: FlashAttentionAttrs,
    query: Array,
    key: Array,
    value: Array,
    attn_bias: Array | None = None,
    attn_mask: Array | None = None,
    sink: Array | None = None,
    kv_lengths: Array | None = None,
    lse: bool = False,
) -> Problem:
    """Describe one call; shapes as in the contract.

    Raises:
        ModelError: ``bad-input`` for a dtype or rank that the operator does not take.
    """

    def code(array: Array | None, name: str) -> int:
        if array is None:
            return -1
        if array.dtype not in _DTYPES:
            raise ModelError("bad-input", f"{name} has dtype {array.dtype}")
        return _DTYPES[array.dtype]

    def dims(array: Array | None) -> list[int]:
        if array is None:
            return [0, 0, 0, 0]
        if array.ndim > 4:
            raise ModelError("bad-input", f"a mask or bias has {array.ndim} dimensions")
        return [1] * (4 - array.ndim) + list(array.shape)

    def shape(array: Array, heads: int) -> tuple[int, int, int]:
        if attrs.layout == "BSH":
            return array.shape[0], array.shape[1], array.shape[2] // heads
        axis = 2 if attrs.layout == "BNSD" else 1
        return array.shape[0], array.shape[axis], array.shape[3]

    batch, q_len, depth = shape(query, attrs.num_heads)
    _, kv_len, value_depth = shape(value, attrs.num_kv_heads)
    result = Problem(
        batch=batch,
        heads=attrs.num_heads,
        kv_heads=attrs.num_kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        depth=depth,
        value_depth=value_depth,
        window_left=attrs.window_left,
        window_right=attrs.window_right,
        dtype=code(query, "query"),
        layout=LAYOUTS.index(attrs.layout),
        out_layout=LAYOUTS.index(attrs.out_layout),
        bias_dtype=code(attn_bias, "attn_bias"),
        mask_present=attn_mask is not None,
        sink_dtype=code(sink, "sink"),
        kv_lengths_present=kv_lengths is not None,
        lse_present=lse,
        causal=CAUSAL.index(attrs.causal),
        masked_rows=MASKED_ROWS.index(attrs.masked_rows),
        inner_precision=int(attrs.inner_precision == "fp16"),
        scale=attrs.scale,
        softcap=attrs.softcap,
    )
    result.bias_dims[:] = dims(attn_bias)
    result.mask_dims[:] = dims(attn_mask)
    return result


def output_shape(attrs: FlashAttentionAttrs, problem: Problem) -> tuple[int, ...]:
    """Return the shape of the output in ``attrs.out_layout``."""
    b, n, s, d = problem.batch, problem.heads, problem.q_len, problem.value_depth
    return {"BNSD": (b, n, s, d), "BSND": (b, s, n, d), "BSH": (b, s, n * d)}[attrs.out_layout]


def plan(problem: Problem, arch: str, platform: Platform | None = None) -> tuple[Tiling, Plan]:
    """Return the tiling of a problem.

    Raises:
        ModelError: ``kernel-rejects`` with the reason of the tiling.
    """
    library = load(build(arch))
    tiling, result = Tiling(), Plan()
    message = ctypes.create_string_buffer(_MESSAGE)
    code = library.omfuse_emulation_plan(
        problem, platform or PLATFORMS[arch], tiling, result, message, _MESSAGE
    )
    _raise(code, message, arch)
    return tiling, result


def count(problem: Problem, arch: str, platform: Platform | None = None) -> Counters:
    """Count traffic, instructions and modelled cycles of a problem without computing it."""
    return _call(load(build(arch)), problem, arch, platform, Tensors(), Options(count_only=1))


def run(
    attrs: FlashAttentionAttrs,
    query: Array,
    key: Array,
    value: Array,
    attn_bias: Array | None = None,
    attn_mask: Array | None = None,
    sink: Array | None = None,
    kv_lengths: Array | None = None,
    *,
    arch: str = "910b",
    lse: bool = False,
    platform: Platform | None = None,
    random_seed: int | None = None,
    checks: bool = False,
    library: Path | None = None,
) -> Emulated:
    """Run the emulated kernel once.

    Args:
        attrs: node attributes.
        query: in ``attrs.layout``; float16, bfloat16 (910b), or float32, which is cast to float16
            before the kernel and back after it, as ATC does.
        key: see query.
        value: see query.
        attn_bias: float, broadcastable to ``[B, N, Sq, Skv]``.
        attn_mask: bool, true = keep, broadcastable alike.
        sink: ``[N]``.
        kv_lengths: ``[B]``.
        arch: ``910b`` or ``310p``.
        lse: also return the log-sum-exp ``[B, N, Sq]``.
        platform: memory and cores; those of Ascend910B3 or Ascend310P3 by default.
        random_seed: let pipes overtake each other at random, as far as the kernel's waits allow.
        checks: look for races, uninitialised reads, overruns and leftover flags (slow).
        library: a library of :func:`build`; by default the one of the installed sources.

    Raises:
        ModelError: ``kernel-rejects`` or ``bad-input``.
        KernelViolationError: ``kernel-violation``.
    """
    wide = query.dtype == np.float32
    if wide:
        query, key, value = (a.astype(np.float16) for a in (query, key, value))
        attn_bias = None if attn_bias is None else _clip(attn_bias)
    bias = None if attn_bias is None else np.ascontiguousarray(attn_bias)
    mask = None if attn_mask is None else np.ascontiguousarray(attn_mask, dtype=np.bool_)
    lengths = None if kv_lengths is None else np.ascontiguousarray(kv_lengths, dtype=np.int32)
    sinks = None if sink is None else np.ascontiguousarray(sink)
    if sinks is not None and sinks.dtype != query.dtype:
        sinks = sinks.astype(np.float32)
    query, key, value = (np.ascontiguousarray(a) for a in (query, key, value))
    problem = problem_of(attrs, query, key, value, bias, mask, sinks, lengths, lse)
    output = np.empty(output_shape(attrs, problem), query.dtype)
    log = np.empty((problem.batch, problem.heads, problem.q_len), np.float32) if lse else None
    arrays = (query, key, value, bias, mask, sinks, lengths, output, log)
    tensors = Tensors(*(None if a is None else a.ctypes.data for a in arrays))
    options = Options(random_seed or 0, int(random_seed is not None), int(checks), 0, 0)
    loaded = load(library or build(arch))
    counters = _call(loaded, problem, arch, platform, tensors, options)
    return Emulated(output.astype(np.float32) if wide else output, log, counters)


def _clip(bias: Array) -> Array:
    largest = float(np.finfo(np.float16).max)
    narrow = np.clip(bias, -largest, largest)
    clipped: Array = np.where(np.isinf(bias), bias, narrow).astype(np.float16)
    return clipped


def _call(
    library: ctypes.CDLL,
    problem: Problem,
    arch: str,
    platform: Platform | None,
    tensors: Tensors,
    options: Options,
) -> Counters:
    counters = Counters()
    message = ctypes.create_string_buffer(_MESSAGE)
    code = library.omfuse_emulation_run(
        problem, platform or PLATFORMS[arch], tensors, options, counters, message, _MESSAGE
    )
    _raise(code, message, arch)
    return counters


def _raise(code: int, message: ctypes.Array[ctypes.c_char], arch: str) -> None:
    if code == 0:
        return
    said = message.value.decode(errors="replace")
    if code == _REJECTED:
        raise ModelError("kernel-rejects", f"the kernel for {arch} does not take this: {said}")
    if code == _BAD_CALL:
        raise ModelError("bad-input", said)
    raise KernelViolationError("kernel-violation", said, where=f"emulated {arch}")
