"""The options of one ATC run for an ONNX model, typed, and their command line form.

A field has the name of its flag.  ``None`` leaves the flag out, so that ATC's own default holds.
Checks live in ``rules``; this module only converts.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfuse.atc.options.flags import DRIVER_FLAGS, FLAGS, TRUE_FALSE
from omfuse.atc.options.problem import is_whole
from omfuse.errors import UsageError

_FRAMEWORK_ONNX = "5"


@dataclass(frozen=True)
class AtcOptions:
    """Every flag of ATC that serves an ONNX model, plus ``extra`` for anything else."""

    model: Path | None = None
    output: Path | None = None  # without the suffix .om, which ATC appends
    soc_version: str | None = None
    mode: int | None = None
    check_report: Path | None = None
    display_model_info: bool | None = None
    input_format: str | None = None
    input_shape: str | None = None
    input_shape_range: str | None = None
    input_hint_shape: str | None = None
    dynamic_batch_size: str | None = None
    dynamic_image_size: str | None = None
    dynamic_dims: str | None = None
    out_nodes: str | None = None
    output_type: str | None = None
    input_fp16_nodes: str | None = None
    is_input_adjust_hw_layout: str | None = None
    is_output_adjust_hw_layout: str | None = None
    insert_op_conf: Path | None = None
    external_weight: int | None = None
    save_original_model: bool | None = None
    raw_ge_options: str | None = None
    raw_ge_options_ignore_unsupported: bool | None = None
    core_type: str | None = None
    aicore_num: str | None = None
    virtual_type: int | None = None
    host_env_os: str | None = None
    host_env_cpu: str | None = None
    device_id: str | None = None
    precision_mode: str | None = None
    precision_mode_v2: str | None = None
    modify_mixlist: Path | None = None
    keep_dtype: Path | None = None
    customize_dtypes: Path | None = None
    op_precision_mode: Path | None = None
    op_select_implmode: str | None = None
    optypelist_for_implmode: str | None = None
    allow_hf32: bool | None = None
    deterministic: bool | None = None
    deterministic_level: int | None = None
    is_weight_clip: bool | None = None
    quant_dumpable: bool | None = None
    disable_reuse_memory: bool | None = None
    fusion_switch_file: Path | None = None
    buffer_optimize: str | None = None
    enable_small_channel: bool | None = None
    enable_single_stream: bool | None = None
    ac_parallel_enable: bool | None = None
    tiling_schedule_optimize: bool | None = None
    jit_compile: int | None = None
    optimization_switch: str | None = None
    oo_level: str | None = None
    oo_constant_folding: bool | None = None
    oo_dead_code_elimination: bool | None = None
    topo_sorting_mode: int | None = None
    export_compile_stat: int | None = None
    multi_stream_parallel_mode: str | None = None
    static_model_ops_lower_limit: str | None = None
    h2d_overlapped_with_compute: str | None = None
    op_compiler_cache_mode: str | None = None
    op_compiler_cache_dir: Path | None = None
    mdl_bank_path: Path | None = None
    op_bank_path: Path | None = None
    auto_tune_mode: str | None = None
    compress_weight_conf: Path | None = None
    enable_compress_weight: bool | None = None
    compression_optimize_conf: Path | None = None
    sparsity: bool | None = None
    enable_attr_compression: bool | None = None
    shape_generalized_build_mode: str | None = None
    log: str | None = None
    op_debug_level: int | None = None
    op_debug_config: Path | None = None
    debug_dir: Path | None = None
    status_check: bool | None = None
    atomic_clean_policy: bool | None = None
    extra: tuple[tuple[str, str], ...] = field(default=())

    def values(self) -> dict[str, str]:
        """Return ``flag -> text`` for every flag that is set, in command line order."""
        found = {"framework": _FRAMEWORK_ONNX}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name != "extra" and value is not None:
                found[item.name] = flag_text(item.name, value)
        found.update(self.extra)
        order = ("model", "framework", "output", "soc_version")
        return {name: found[name] for name in (*order, *found) if name in found}

    def to_argv(self) -> list[str]:
        """Return the arguments of the ``atc`` executable, one list item each, never quoted."""
        return [f"--{name}={value}" for name, value in self.values().items()]

    def replace(self, **changes: Any) -> AtcOptions:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


FIELD_NAMES = tuple(f.name for f in dataclasses.fields(AtcOptions) if f.name != "extra")
_FIELD_TYPES = {f.name: str(f.type) for f in dataclasses.fields(AtcOptions)}


def flag_text(name: str, value: Any) -> str:
    """Write a typed value the way ATC reads it: 0/1 or true/false by the flag's own set."""
    if isinstance(value, bool):
        word = str(value).lower()
        return (
            word
            if FLAGS[name].values == TRUE_FALSE or FLAGS[name].kind == "bool"
            else ("1" if value else "0")
        )
    return str(value)


def flag_value(name: str, text: str) -> Any:
    """Read the text of a flag into the type of its field.

    Raises:
        UsageError: ``atc-flag-value`` when the text does not have the flag's type or is outside
            its closed set; the message names the code with which ATC would stop.
    """
    flag, kind = FLAGS[name], _FIELD_TYPES[name]
    text = str(text)
    allowed = flag.values or (("true", "false") if flag.kind == "bool" else ())
    word = text.lower() if kind.startswith("bool") else text
    if kind.startswith("bool"):
        word = _bool_word(word, allowed)
    # ATC reads the kind of a value before it looks into the set.
    wrong_kind = flag.kind == "bool" or (flag.kind == "int" and not is_whole(word))
    if allowed and word not in allowed:
        near = difflib.get_close_matches(text, allowed, n=1)
        code = "E10003" if wrong_kind else flag.bad_value
        raise UsageError(
            "atc-flag-value",
            f"{name}={text!r} is not a value ATC takes (ATC {code})",
            where=f"--{name}",
            hint=(f"did you mean {near[0]}? " if near else "") + f"use one of {', '.join(allowed)}",
        )
    if kind.startswith("bool"):
        return word in ("1", "true")
    if kind.startswith("int"):
        return int(word)
    return Path(text) if kind.startswith("Path") else text


def _bool_word(word: str, allowed: Sequence[str]) -> str:
    yes, no = ("true", "false") if "true" in allowed else ("1", "0")
    if word in ("1", "true", "yes", "on"):
        return yes
    return no if word in ("0", "false", "no", "off") else word


def apply_settings(options: AtcOptions, settings: Iterable[tuple[str, Any]]) -> AtcOptions:
    """Lay ``flag=value`` pairs over options; a name outside the table goes to ``extra`` as is.

    Raises:
        UsageError: ``atc-flag-owned`` for a flag that omfuse decides, ``atc-flag-other`` for one
            that does not serve ONNX, ``atc-flag-value`` for a bad value.
    """
    changes: dict[str, Any] = {}
    extra = dict(options.extra)
    for raw, value in settings:
        name = raw.strip().lstrip("-").replace("-", "_")
        if name in DRIVER_FLAGS:
            raise UsageError(
                "atc-flag-owned",
                f"omfuse sets {name} itself",
                where=f"--set {raw}={value}",
                hint="use the model argument, -o or --soc",
            )
        if name in FIELD_NAMES:
            text = flag_text(name, value) if isinstance(value, bool) else str(value)
            changes[name] = flag_value(name, text)
        elif name in FLAGS:
            raise UsageError(
                "atc-flag-other",
                f"{name} does not serve an ONNX model in mode 0",
                where=f"--set {raw}={value}",
                hint="drop it",
            )
        else:
            extra[name] = str(value)
    return options.replace(**changes, extra=tuple(extra.items()))


def unknown_flags(options: AtcOptions) -> list[tuple[str, str | None]]:
    """List flags passed through blindly, each with the known name it looks like."""
    found = []
    for name, _ in options.extra:
        near = difflib.get_close_matches(name, FLAGS, n=1, cutoff=0.8)
        found.append((name, near[0] if near else None))
    return found


def parse_setting(text: str) -> tuple[str, str]:
    """Split ``flag=value``.

    Raises:
        UsageError: ``bad-setting`` when there is no ``=``.
    """
    name, sep, value = text.partition("=")
    if not sep or not name.strip():
        raise UsageError("bad-setting", f"{text!r} is not flag=value", hint="--set log=error")
    return name.strip(), value


def from_argv(argv: Sequence[str]) -> AtcOptions:
    """Read an existing ATC command, for example one from a script; ``atc`` itself may be first.

    Both ``--name=value`` and ``--name value`` are read; names must be complete.

    Raises:
        UsageError: ``atc-command`` when a part is not a flag, or the command is not for ONNX.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = words[1:]
    pairs: list[tuple[str, str]] = []
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise UsageError(
                "atc-command",
                f"{word!r} is not a flag",
                hint="a value with a space or `;` needs quotes in the shell",
            )
        name, sep, value = word.lstrip("-").partition("=")
        if not sep:
            value = words.pop(0) if words and not words[0].startswith("--") else ""
        pairs.append((name.replace("-", "_"), value))
    given = dict(pairs)
    if given.pop("framework", _FRAMEWORK_ONNX) != _FRAMEWORK_ONNX:
        raise UsageError("atc-command", "the command is not for ONNX", hint="--framework=5")
    own: dict[str, Any] = {
        name: flag_value(name, given.pop(name)) for name in DRIVER_FLAGS if name in given
    }
    return apply_settings(AtcOptions(**own), given.items())


def command_text(program: str, argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    """Write a command that can be pasted into a POSIX shell."""
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted((env or {}).items())]
    return " ".join([*words, shlex.quote(program), *(shlex.quote(a) for a in argv)])
