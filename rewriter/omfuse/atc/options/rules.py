"""The rules of ATC's command line beyond shapes, checked before ATC starts.

Every rule names the code that it prevents (tables 1.3 and 1.4 of the flag reference: graph-engine
9.2 ``main_impl.cc``, ``option_utils.cc``).  Rules that only the documentation states are warnings
without a code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from omfuse.atc.config import SocConfig
from omfuse.atc.options.fields import FIELD_NAMES, AtcOptions, unknown_flags
from omfuse.atc.options.file_rules import check_files
from omfuse.atc.options.flags import FLAGS
from omfuse.atc.options.io_rules import check_inputs_outputs, check_paths
from omfuse.atc.options.name_rules import check_node_names
from omfuse.atc.options.problem import RuleBreak, RuleContext, is_whole
from omfuse.atc.options.shape_rules import check_shapes

_MIX_MODES = (
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "mixed_float16",
    "mixed_bfloat16",
    "mixed_hif8",
)
_BF16_MODES = ("allow_mix_precision_bf16", "allow_fp32_to_bf16", "mixed_bfloat16")
_ORIGIN = ("must_keep_origin_dtype", "origin")


def check(options: AtcOptions, context: RuleContext | None = None) -> list[RuleBreak]:
    """Return every broken rule, errors first."""
    ctx = context or RuleContext()
    found = [rule for group in _GROUPS for rule in group(options, ctx)]
    found += check_shapes(options, ctx.inputs, options.soc_version or "", ctx.nodes or ())
    return sorted(found, key=lambda rule: rule.severity != "error")


def _required(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    for name in ("model", "output", "soc_version"):
        if not str(getattr(o, name) or ""):
            yield RuleBreak("E10054", name, "it is required and empty", "give it a value")
    if o.mode not in (None, 0):
        what = f"mode {o.mode} does not compile an ONNX model to .om"
        yield RuleBreak("E10001", "mode", what, "drop it: 0 is the default")
    for name in FIELD_NAMES:
        value, flag = getattr(o, name), FLAGS[name]
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            yield RuleBreak("E10001", name, f"{value} is negative", "use 0 or more")
        closed = flag.values and isinstance(value, (str, int)) and not isinstance(value, bool)
        if closed and str(value) not in flag.values:
            listed = ", ".join(flag.values)
            yield RuleBreak(flag.bad_value, name, f"{value!r} is no value", f"use one of {listed}")
        if value is not None and flag.since and (ctx.cann_major or 99) < flag.since:
            what = f"CANN {ctx.cann_major} does not know this flag, {flag.since}.x does"
            yield RuleBreak("", name, what, "drop it")
    for name, near in unknown_flags(o):
        hint = f"did you mean {near}?" if near else ""
        yield RuleBreak("", name, "not a flag omfuse knows, passed on as it is", hint, "warning")


def _target(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    soc = ctx.soc
    if (o.host_env_os is None) != (o.host_env_cpu is None):
        what = "host_env_os and host_env_cpu go together"
        yield RuleBreak("E10001", "host_env_os", what, "linux and aarch64, or linux and x86_64")
    if soc is None:
        return
    if o.core_type == "VectorCore":
        what = f"VectorCore has no effect on {soc.name}"
        if soc.family == "Ascend310P":
            what = "VectorCore cannot hold matrix operators, FlashAttention among them"
        yield RuleBreak("", "core_type", what, "drop it", "warning")
    if o.aicore_num is not None:
        yield from _aicore_num(o.aicore_num, soc)
    mode = o.precision_mode or o.precision_mode_v2 or ""
    if mode in _BF16_MODES and not soc.bf16:
        yield RuleBreak(
            "", "precision_mode", f"{soc.name} has no bf16, {mode} needs it", "use an fp16 mode"
        )
    if "hif8" in mode and not soc.name.startswith("Ascend950"):
        what = f"{mode} is for Ascend950, not {soc.name}"
        yield RuleBreak("", "precision_mode_v2", what, "use fp16 or mixed_float16")
    types = set(re.findall(r"[A-Z]+\w*", o.output_type or ""))
    narrow = sorted(types & {"HIF8", "FP8E5M2", "FP8E4M3FN"})
    if narrow and not soc.name.startswith("Ascend950"):
        yield RuleBreak(
            "E10001", "output_type", f"{narrow[0]} is for Ascend950, not {soc.name}", "use FP16"
        )
    if o.sparsity and not soc.sparsity:
        yield RuleBreak("", "sparsity", f"{soc.name} has no structured sparsity", "", "warning")
    if o.multi_stream_parallel_mode and soc.family == "Ascend310B":
        yield RuleBreak("", "multi_stream_parallel_mode", "not supported on 310B", "drop it")
    gears = (o.dynamic_batch_size, o.dynamic_image_size, o.dynamic_dims)
    opened = "-1" in (o.input_shape or "") and all(flag is None for flag in gears)
    ranged = opened or "~" in (o.input_shape or "") or o.input_shape_range is not None
    if ranged and not soc.shape_range:
        yield RuleBreak(
            "",
            "input_shape",
            f"shape ranges are documented as unsupported on {soc.name}",
            "use gears: --shape NAME=64,128,256",
        )


def _aicore_num(text: str, soc: SocConfig) -> Iterator[RuleBreak]:
    words = text.split("|")
    if len(words) > 2 or not is_whole(words[0]) or not (is_whole(words[-1]) or words[-1] == ""):
        yield RuleBreak("E10001", "aicore_num", f"{text!r} is not cube|vector", "8| or 20|40")
        return
    split = soc.vector_cores > soc.cube_cores  # cores of their own for vector work
    if (len(words) == 2 and bool(words[1])) != split:
        form = "cube|vector, such as 20|40" if split else "N|, such as 8|"
        what = f"{text!r} is not the form documented for {soc.name}"
        yield RuleBreak("", "aicore_num", what, form, "warning")
    limits = (soc.cube_cores, soc.vector_cores)
    for word, limit, what in zip(words, limits, ("cube", "vector"), strict=False):
        if word and not 1 <= int(word) <= limit:
            text = f"{word} {what} cores, {soc.name} has {limit}"
            yield RuleBreak("E20103", "aicore_num", text, "lower it, or leave it out")


def _precision(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    if o.precision_mode is not None and o.precision_mode_v2 is not None:
        yield RuleBreak(
            "E10056",
            "precision_mode",
            "precision_mode and precision_mode_v2 exclude one another",
            "keep one",
        )
    mode = o.precision_mode or o.precision_mode_v2 or "force_fp16"
    if o.modify_mixlist is not None and mode not in _MIX_MODES:
        yield RuleBreak(
            "E10001",
            "modify_mixlist",
            f"it needs a mixed precision mode, not {mode}",
            "mixed_float16",
        )
    if o.optypelist_for_implmode is not None and o.op_select_implmode is None:
        need = "--set op_select_implmode=high_precision, or high_performance"
        yield RuleBreak("E10001", "optypelist_for_implmode", "it needs op_select_implmode", need)
    if o.keep_dtype is not None and mode in _ORIGIN:
        yield RuleBreak("", "keep_dtype", f"no effect with {mode}", "drop it", "warning")
    if o.deterministic_level is not None and bool(o.deterministic) != bool(o.deterministic_level):
        yield RuleBreak(
            "E10001",
            "deterministic_level",
            "deterministic and its level must both be zero or not",
            "--set deterministic=1, or drop the level",
        )


def _build(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    if o.auto_tune_mode:
        yield RuleBreak(
            "E10001", "auto_tune_mode", "ATC no longer tunes", "drop it and use the AOE tool"
        )
    if o.compress_weight_conf is not None and o.enable_compress_weight:
        yield RuleBreak(
            "E10047", "compress_weight_conf", "it excludes enable_compress_weight=true", "keep one"
        )
    if o.enable_single_stream and o.multi_stream_parallel_mode is not None:
        yield RuleBreak(
            "E10001", "enable_single_stream", "it excludes multi_stream_parallel_mode", "keep one"
        )
    mode = o.multi_stream_parallel_mode
    if mode is not None and not _stream_mode(mode):
        yield RuleBreak(
            "E10001",
            "multi_stream_parallel_mode",
            f"{mode!r} is not a mode",
            "cv, LoadBalance:N or MainStream:N with N from 1 to 64",
        )
    limit = o.static_model_ops_lower_limit
    if limit is not None and not (limit == "-1" or is_whole(limit)):
        flag = "static_model_ops_lower_limit"
        yield RuleBreak("E10001", flag, f"{limit!r} is not -1 or more", "the default is 4")
    switch = o.optimization_switch
    if switch is not None and not all(
        re.fullmatch(r"[^:;]+:(on|off)", w) for w in switch.split(";") if w
    ):
        yield RuleBreak(
            "E10001", "optimization_switch", f"{switch!r} is no list of passes", "pass:on;pass:off"
        )
    if o.shape_generalized_build_mode is not None:
        yield RuleBreak("", "shape_generalized_build_mode", "deprecated", "drop it", "warning")
    indexes = o.h2d_overlapped_with_compute
    if indexes is not None and not all(is_whole(w.strip()) for w in indexes.split(",")):
        yield RuleBreak(
            "",
            "h2d_overlapped_with_compute",
            f"{indexes!r} is no list of input indexes",
            "0,1",
            "warning",
        )
    if o.op_debug_level and o.op_compiler_cache_mode in ("enable", "force"):
        yield RuleBreak(
            "", "op_compiler_cache_mode", "ignored while op_debug_level is not 0", "", "warning"
        )
    if o.op_compiler_cache_mode == "enable" and not o.op_debug_level:
        yield RuleBreak(
            "",
            "op_compiler_cache_mode",
            "ATC's own cache keeps the old kernel of a rebuilt operator package",
            "use force after each `omfuse op build`",
            "warning",
        )
    if o.op_debug_level == 2:
        yield RuleBreak(
            "", "op_debug_level", "2 compiles with -O0: slow and large", "use 0, 3 or 4", "warning"
        )


def _stream_mode(text: str) -> bool:
    name, _, number = text.partition(":")
    if name == "cv":
        return not number
    return name in ("LoadBalance", "MainStream") and is_whole(number) and 1 <= int(number) <= 64


_GROUPS: tuple[Callable[[AtcOptions, RuleContext], Iterator[RuleBreak]], ...] = (
    _required,
    check_paths,
    check_inputs_outputs,
    _target,
    _precision,
    _build,
    check_files,
    check_node_names,
)
