"""The rules of paths, inputs and outputs on ATC's command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from omfuse.atc.options.fields import FIELD_NAMES, AtcOptions
from omfuse.atc.options.flags import FLAGS
from omfuse.atc.options.problem import RuleBreak, RuleContext

PLAIN_PATH = re.compile(r"[A-Za-z0-9\-._/\u4e00-\u9fa5]+\Z")
_PATH_MAX, _NAME_MAX = 4096, 255
_DTYPES = ("FP32", "FP16", "UINT8", "INT8", "HIF8", "FP8E5M2", "FP8E4M3FN")
_FOLDERS = ("op_bank_path", "mdl_bank_path")  # what AOE left behind


def check_paths(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    """Check that the files exist and that ATC takes the characters of their real paths."""
    for name in FIELD_NAMES:
        value = getattr(o, name)
        if not FLAGS[name].is_path or not isinstance(value, Path) or not str(value):
            continue
        real = value.resolve()
        if not real.exists():
            yield RuleBreak("E10001", name, f"{value} does not exist", "correct the path")
        elif real.is_dir() and name not in _FOLDERS:
            yield RuleBreak("", name, f"{value} is a folder", "name a file")
        elif not PLAIN_PATH.match(str(real)):
            yield RuleBreak(
                "E10001",
                name,
                f"the real path {real} holds characters that ATC refuses",
                "move it below a folder named with letters, digits, `-`, `.`, `_`",
            )
    if o.output is not None:
        yield from _output_path(str(o.output))


def _output_path(text: str) -> Iterator[RuleBreak]:
    if not text:
        return
    if text.endswith("/") or text == ".":
        yield RuleBreak("E10022", "output", f"{text!r} has no file name", "end it with a name")
    elif len(text) >= _PATH_MAX or len(Path(text).name) > _NAME_MAX - len(".om"):
        yield RuleBreak("E10021", "output", "the path is too long", "use a shorter name")
    elif not PLAIN_PATH.match(text):
        yield RuleBreak(
            "E10001",
            "output",
            f"{text!r} holds characters that ATC refuses",
            "letters, digits, `-`, `.`, `_`",
        )


def check_inputs_outputs(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    """Check formats, layouts, named outputs and their dtypes, image preprocessing."""
    if o.input_format is not None and o.input_format not in ("NCHW", "ND", "NCDHW"):
        yield RuleBreak(
            "E10001",
            "input_format",
            f"{o.input_format!r} is not a format of ONNX inputs",
            "use NCHW, ND or NCDHW",
        )
    if o.dynamic_dims is not None and o.input_format not in (None, "ND"):
        yield RuleBreak(
            "",
            "input_format",
            "dynamic_dims is documented for ND only",
            "input_format=ND",
            "warning",
        )
    if o.input_shape_range is not None:
        yield RuleBreak(
            "",
            "input_shape_range",
            "deprecated, and it overrides input_shape",
            "put the range into input_shape: name:1~8,3",
            "warning",
        )
    for flag, partner in (
        ("is_input_adjust_hw_layout", "input_fp16_nodes"),
        ("is_output_adjust_hw_layout", "out_nodes"),
    ):
        text = getattr(o, flag)
        if text is None:
            continue
        if any(word not in ("true", "false") for word in text.split(",")):
            yield RuleBreak(
                "E10001", flag, f"{text!r} is not a list of true and false", "true,false"
            )
        elif getattr(o, partner) is None:
            yield RuleBreak("E10001", flag, f"it needs {partner}", f"--set {partner}=NAME")
    yield from _outputs(o)
    yield from _preprocessed(o, ctx)
    if o.raw_ge_options is not None:
        yield from _raw_ge(o.raw_ge_options)


def _preprocessed(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    """Find inputs that are fp16 and image preprocessing (AIPP) at once."""
    wanted = {name for name in (o.input_fp16_nodes or "").split(";") if name}
    if not wanted or o.insert_op_conf is None or not o.insert_op_conf.is_file():
        return
    text = re.sub(r"#.*", "", o.insert_op_conf.read_text("utf-8", errors="replace"))
    inputs = list(ctx.inputs or ())
    for place, block in enumerate(re.findall(r"aipp_op\s*\{([^{}]*)\}", text)):
        name = re.search(r'related_input_name\s*:\s*"([^"]*)"', block)
        rank = re.search(r"related_input_rank\s*:\s*(\d+)", block)
        index = int(rank[1]) if rank else place
        claimed = name[1] if name else (inputs[index] if index < len(inputs) else "")
        if claimed in wanted:
            yield RuleBreak(
                "E10034",
                "input_fp16_nodes",
                f"{claimed} is also preprocessed by insert_op_conf",
                "keep one of the two: AIPP makes it uint8",
            )


def _outputs(o: AtcOptions) -> Iterator[RuleBreak]:
    nodes = [w for w in (o.out_nodes or "").split(";") if w]
    indexed = [bool(re.search(r":\d+\Z", w)) for w in nodes]
    if any(indexed) and not all(indexed):
        yield RuleBreak(
            "E10001",
            "out_nodes",
            "node:index and tensor names are mixed",
            "use one form: node:0;other:0 or tensor names",
        )
    if o.output_type is None or o.output_type in _DTYPES:
        return
    for part in filter(None, o.output_type.split(";")):
        node, _, dtype = part.rpartition(":")
        if dtype not in _DTYPES or not re.search(r".:\d+\Z", node):
            yield RuleBreak(
                "E10001",
                "output_type",
                f"{part!r} is neither a dtype nor node:index:dtype",
                f"dtypes are {', '.join(_DTYPES[:4])}",
            )
        elif node not in nodes:
            yield RuleBreak("E10001", "output_type", f"{node} is not in out_nodes", "add it there")


def _raw_ge(text: str) -> Iterator[RuleBreak]:
    try:
        document = json.loads(text)
    except ValueError as error:
        form = '{"compile options": {"global": {}, "session": {}, "graph": {}}}'
        yield RuleBreak("E10001", "raw_ge_options", f"not JSON: {error}", form)
        return
    known = {"global", "session", "graph"}
    inner = document.get("compile options") if isinstance(document, dict) else None
    if not isinstance(inner, dict) or set(inner) - known:
        yield RuleBreak(
            "E10001",
            "raw_ge_options",
            "it must hold `compile options` with global, session and graph",
            '{"compile options": {"global": {}}}',
        )
        return
    named = {key for part in inner.values() if isinstance(part, dict) for key in part}
    for key in sorted(named & {"model", "output", "framework", "soc_version"}):
        yield RuleBreak("E10001", "raw_ge_options", f"{key} cannot be replaced there", "drop it")
