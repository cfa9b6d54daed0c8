"""The checks that ATC makes before it reads the model, in its order; the first failure wins."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from omfuse.atc.config import load_soc, soc_names
from omfuse.sim.atc.failure import AtcFailure, Message, bad_value, fail
from omfuse.sim.atc.shape_flags import ShapeRequest, read_shapes

_PLAIN = re.compile(r"[A-Za-z0-9\-._/\u4e00-\u9fa5]+")
_PATH_MAX, _NAME_MAX = 4096, 255
_FORMATS = ("NCHW", "ND", "NCDHW")
_MIXED = ("allow_mix_precision", "mixed_float16", "mixed_bfloat16", "mixed_hif8")
_PATH_FLAGS = (
    "keep_dtype",
    "customize_dtypes",
    "fusion_switch_file",
    "compress_weight_conf",
    "cal_conf",
    "op_name_map",
    "insert_op_conf",
    "op_debug_config",
    "op_bank_path",
    "mdl_bank_path",
)

Flags = Mapping[str, str]


def check_flags(given: Flags) -> ShapeRequest:
    """Make every check of mode 0 that needs no model.

    Raises:
        AtcFailure: the first check that fails.
    """
    _check_raw_options(given)
    _check_tuning(given)
    _check_single_op(given)
    _check_framework(given)
    _check_soc_pair(given)
    _check_format(given)
    for name in ("soc_version", "output", "model"):
        if not given.get(name) and not (name == "output" and given.get("mode") == "3"):
            raise fail("E10054", f"The required parameter [--{name}] is empty.")
    input_path("model", given["model"])
    if given.get("mode") != "3":
        _check_output(given["output"])
    _check_implementation(given)
    if given.get("op_precision_mode"):
        input_path("op_precision_mode", given["op_precision_mode"])
    _check_precision(given)
    shapes = read_shapes(given)
    if "dynamic_dims" in given and given.get("insert_op_conf"):
        raise bad_value("dynamic_dims", given["dynamic_dims"], "It excludes --insert_op_conf.")
    for name in _PATH_FLAGS:
        if given.get(name):
            input_path(name, given[name])
    _check_contents(given)
    _check_compress(given)
    _check_streams(given)
    _check_host(given)
    _check_lists(given)
    return shapes


def _check_raw_options(given: Flags) -> None:
    text = given.get("raw_ge_options")
    if text is None:
        return
    try:
        document = json.loads(text)
    except ValueError as error:
        raise bad_value("raw_ge_options", text, f"It is not JSON: {error}") from None
    inner = document.get("compile options") if isinstance(document, dict) else None
    if not isinstance(inner, dict) or set(inner) - {"global", "session", "graph"}:
        raise bad_value("raw_ge_options", text, "It must hold [compile options].")
    named = {key for part in inner.values() if isinstance(part, dict) for key in part}
    fixed = sorted(named & {"model", "output", "framework", "soc_version"})
    if fixed:
        raise bad_value("raw_ge_options", text, f"{fixed} cannot be set here.")


def _check_tuning(given: Flags) -> None:
    if given.get("auto_tune_mode"):
        raise bad_value("auto_tune_mode", given["auto_tune_mode"], "deprecated, use AOE")
    level, on = given.get("deterministic_level"), given.get("deterministic", "0")
    if level is not None and (level == "0") != (on == "0"):
        reason = "deterministic and deterministic_level must both be zero or both not."
        raise bad_value("deterministic_level", level, reason)


def _check_single_op(given: Flags) -> None:
    value = given.get("singleop")
    if value is None:
        return
    excluded = ("framework" in given, bool(given.get("insert_op_conf")))
    if any(excluded) or given.get("mode", "0") != "0" or given.get("display_model_info") == "1":
        raise bad_value(
            "singleop",
            value,
            "It excludes --framework, --insert_op_conf, --display_model_info and --mode.",
        )
    raise fail("E10055", "The simulated ATC builds models only, no single operators.")


def _check_framework(given: Flags) -> None:
    if given.get("weight"):
        input_path("weight", given["weight"])
    framework = given.get("framework", "-1")
    if framework == "-1":
        raise fail("E10007", "[--framework] is required. The value must be 0, 1, 3 or 5.")
    if framework == "0" and not given.get("weight"):
        raise fail("E10008", "[--weight] is required for a Caffe model.")
    if framework != "5":
        raise fail("E10055", "The simulated ATC builds ONNX models (framework 5) only.")


def _check_soc_pair(given: Flags) -> None:
    nano = given.get("soc_version", "").startswith("Ascend035")
    if nano != (given.get("mode", "0") == "30"):
        raise fail("E10055", "The operation is not supported: soc_version and mode do not match.")
    if given.get("mode", "0") not in ("0", "3"):
        raise fail("E10055", f"The simulated ATC has no mode {given['mode']}.")


def _check_format(given: Flags) -> None:
    value = given.get("input_format")
    if value is not None and value not in _FORMATS:
        reason = f"ONNX supports {', '.join(_FORMATS)} only."
        raise bad_value("input_format", value, reason)


def input_path(flag: str, text: str) -> Path:
    """Check the path of a file to read; the rule for its characters is on the real path.

    Raises:
        AtcFailure: E10001 or E10004.
    """
    if not text:
        raise fail("E10004", f"Value for [--{flag}] is empty.")
    real = os.path.realpath(text)
    if not _PLAIN.fullmatch(real):
        raise bad_value(
            flag,
            text,
            "The path can only contain 'a-z' 'A-Z' '0-9' '-' '.' '_' '/' and Chinese characters.",
        )
    if not Path(real).exists():
        raise bad_value(flag, text, "No such file or directory")
    if not os.access(real, os.R_OK):
        raise bad_value(flag, text, "Permission denied")
    return Path(real)


def _check_output(text: str) -> None:
    if text.endswith("/"):
        raise fail("E10022", f"Path [{text}] of [--output] does not include the file name.")
    if len(text) >= _PATH_MAX or len(Path(text).name) + len(".om") > _NAME_MAX:
        raise fail("E10021", f"Path [{text[:80]}] of [--output] exceeds the maximum length.")
    if not _PLAIN.fullmatch(text):
        raise bad_value("output", text, "The path can only contain plain characters.")
    folder = Path(text).parent
    try:
        # Made while checking, and they stay when the build fails.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_value("output", text, str(error.strerror)) from None
    target = Path(text + ".om")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise bad_value("output", text, "Permission denied")


def _check_implementation(given: Flags) -> None:
    if given.get("optypelist_for_implmode") and not given.get("op_select_implmode"):
        value = given["optypelist_for_implmode"]
        raise bad_value("op_select_implmode", "", f"optypelist_for_implmode [{value}] needs it.")


def _check_precision(given: Flags) -> None:
    old, new = given.get("precision_mode"), given.get("precision_mode_v2")
    if old and new:
        raise fail(
            "E10056",
            "[--precision_mode] and [--precision_mode_v2] cannot be specified at the same time.",
        )
    mode = old or new or "force_fp16"
    lists = given.get("modify_mixlist")
    if lists:
        input_path("modify_mixlist", lists)
        if not mode.startswith(_MIXED):
            raise bad_value("modify_mixlist", lists, f"It needs a mixed mode: {mode}")


def _check_contents(given: Flags) -> None:
    """Read the files of flags as far as their form is documented."""
    if given.get("modify_mixlist"):
        path = given["modify_mixlist"]
        document = _json(path)
        if not isinstance(document, dict) or set(document) - {"black-list", "white-list"}:
            raise bad_value("modify_mixlist", path, "It must hold black-list and white-list.")
    if given.get("fusion_switch_file"):
        path = given["fusion_switch_file"]
        text = Path(path).read_text("utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        pairs = all(re.fullmatch(r"\s*[\w.\-]+\s*:\s*(on|off)\s*", line) for line in lines)
        document = _json(path)
        if not pairs and not (isinstance(document, dict) and "Switch" in document):
            raise AtcFailure(
                [Message("E20003", f"Fusion configuration [{path}] is invalid.")], True
            )


def _json(path: str) -> object:
    try:
        return json.loads(Path(path).read_text("utf-8", errors="replace"))
    except ValueError:
        return None


def _check_compress(given: Flags) -> None:
    if given.get("compress_weight_conf") and given.get("enable_compress_weight") == "true":
        raise fail(
            "E10047", "[--compress_weight_conf] and [--enable_compress_weight] exclude each other."
        )
    if given.get("compression_optimize_conf"):
        raise fail("E10055", "The operation is not supported: libamctacl.so is not there.")
    if given.get("insert_op_conf"):
        _check_aipp(given["insert_op_conf"], given.get("input_fp16_nodes", "").split(";"))


def _check_aipp(path: str, halves: list[str]) -> None:
    text = re.sub(r"#.*", "", Path(path).read_text("utf-8", errors="replace"))
    blocks = re.findall(r"aipp_op\s*\{([^{}]*)\}", text)
    rest = re.sub(r"aipp_op\s*\{[^{}]*\}", "", text)
    if not blocks or rest.strip():
        raise fail("E13018", f"Failed to parse the proto text [{path}].")
    for block in blocks:
        if not re.search(r"aipp_mode\s*:\s*(static|dynamic)\b", block):
            raise fail("E10052", f"AIPP configuration [{path}] is invalid: aipp_mode is missing.")
        match = re.search(r'related_input_name\s*:\s*"([^"]+)"', block)
        if match is not None and match[1] in halves:
            raise fail("E10034", f"[{match[1]}] of [--input_fp16_nodes] has an AIPP, too.")
    raise fail("E10055", "The simulated ATC does not build image preprocessing (AIPP).")


def _check_streams(given: Flags) -> None:
    mode = given.get("multi_stream_parallel_mode")
    if mode is None:
        return
    if given.get("enable_single_stream") == "true":
        raise bad_value("multi_stream_parallel_mode", mode, "It excludes enable_single_stream.")
    match = re.fullmatch(r"cv|(?:LoadBalance|MainStream):(\d+)", mode)
    if match is None or (match[1] and not 1 <= int(match[1]) <= 64):
        raise bad_value("multi_stream_parallel_mode", mode, "cv, LoadBalance:N or MainStream:N.")
    if given.get("soc_version", "").startswith("Ascend310B"):
        raise bad_value("multi_stream_parallel_mode", mode, "This chip does not support it.")


def _check_host(given: Flags) -> None:
    if ("host_env_os" in given) != ("host_env_cpu" in given):
        raise bad_value("host_env_os", given.get("host_env_os", ""), "It needs host_env_cpu.")
    limit = given.get("static_model_ops_lower_limit")
    if limit is not None and not re.fullmatch(r"-1|\d+", limit):
        raise bad_value("static_model_ops_lower_limit", limit, "It must be -1 or more.")


def _check_lists(given: Flags) -> None:
    nodes = [word for word in given.get("out_nodes", "").split(";") if word]
    indexed = [bool(re.search(r":\d+$", word)) for word in nodes]
    if any(indexed) and not all(indexed):
        raise bad_value("out_nodes", given["out_nodes"], "node:index and tensor names are mixed.")
    for flag, partner in (
        ("is_input_adjust_hw_layout", "input_fp16_nodes"),
        ("is_output_adjust_hw_layout", "out_nodes"),
    ):
        words = given.get(flag)
        if words is None:
            continue
        if any(word not in ("true", "false") for word in words.split(",")):
            raise bad_value(flag, words, "It is a list of true and false.")
        if not given.get(partner):
            raise bad_value(flag, words, f"It needs --{partner}.")
    for part in given.get("optimization_switch", "").split(";"):
        if part and not re.fullmatch(r"[^:;]+:(on|off)", part):
            raise bad_value("optimization_switch", part, "pass:on;pass:off")


def check_platform(given: Flags) -> None:
    """Look the chip up among the platform files, and the cores asked for.

    Raises:
        AtcFailure: E20101 or E20103.
    """
    name = given["soc_version"]
    if name not in soc_names():
        raise AtcFailure(
            [
                Message(
                    "E20101",
                    f"Value [{name}] for parameter [--soc_version] is invalid. Reason: The "
                    "corresponding platform configuration file cannot be found based on the "
                    "configured soc_version.",
                )
            ],
            started=True,
        )
    text = given.get("aicore_num")
    if not text:
        return
    soc = load_soc(name)
    words = text.split("|")
    limits = (soc.cube_cores, soc.vector_cores)
    for word, limit in zip(words, limits, strict=False):
        if word and not (word.isdigit() and 1 <= int(word) <= limit):
            raise AtcFailure(
                [
                    Message(
                        "E20103",
                        f"Value [{text}] for parameter [--aicore_num] is invalid. Reason: The "
                        f"range is [1, {limit}].",
                    )
                ],
                started=True,
            )
