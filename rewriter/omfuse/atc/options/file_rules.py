"""The files that flags name: their form as far as it is documented, before ATC reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from omfuse.atc.options.fields import AtcOptions
from omfuse.atc.options.problem import RuleBreak, RuleContext

_MODES = (
    "high_precision",
    "high_performance",
    "enable_float_32_execution",
    "support_out_of_bound_index",
    "keep_fp16",
    "super_performance",
)
_SECTION = re.compile(r"\[(ByOpType|ByNodeName)\]\Z")
_PASS = re.compile(r"\s*[\w.\-]+\s*:\s*(on|off)\s*\Z")


def check_files(o: AtcOptions, ctx: RuleContext) -> Iterator[RuleBreak]:
    """Read the files of flags; missing ones are the matter of another rule."""
    for flag, reader in _READERS.items():
        path = getattr(o, flag)
        if path is not None and path.is_file():
            yield from reader(flag, path.read_text("utf-8", errors="replace"))


def _lists(flag: str, text: str) -> Iterator[RuleBreak]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or set(document) - {"black-list", "white-list"}:
        form = '{"black-list": {"to-add": ["Softmax"]}}'
        yield RuleBreak("E10001", flag, "its file holds no black-list and white-list", form)


def _passes(flag: str, text: str) -> Iterator[RuleBreak]:
    lines = [line for line in text.splitlines() if line.strip()]
    if all(_PASS.match(line) for line in lines):
        return
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "Switch" not in document:
        yield RuleBreak(
            "E20003",
            flag,
            "its file has neither lines PassName:off nor the JSON form",
            'PassName:off   or {"Switch": {"GraphFusion": {"ALL": "off"}}}',
        )


def _op_precision(flag: str, text: str) -> Iterator[RuleBreak]:
    section = False
    for line in _lines(text):
        name, equals, mode = (part.strip() for part in line.partition("="))
        if line.startswith("["):
            section = _SECTION.match(line) is not None
        if (line.startswith("[") and section) or (section and name and equals and mode in _MODES):
            continue
        hint = f"[ByOpType] or [ByNodeName], then NAME=MODE with {', '.join(_MODES)}"
        yield RuleBreak("", flag, f"its line {line[:80]!r} says nothing to ATC", hint, "warning")
        return


def _keep_dtype(flag: str, text: str) -> Iterator[RuleBreak]:
    for line in _lines(text):
        if re.match(r"OpType::?\s*\Z", line):
            yield RuleBreak("", flag, f"its line {line!r} names no type", "OpType::Add", "warning")


def _dtypes(flag: str, text: str) -> Iterator[RuleBreak]:
    for line in _lines(text):
        if "InputDtype:" not in line and "OutputDtype:" not in line:
            hint = "NODE::InputDtype:float16,OutputDtype:float16"
            yield RuleBreak("", flag, f"its line {line[:80]!r} names no dtype", hint, "warning")
            return


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


_READERS: dict[str, Callable[[str, str], Iterator[RuleBreak]]] = {
    "modify_mixlist": _lists,
    "fusion_switch_file": _passes,
    "op_precision_mode": _op_precision,
    "keep_dtype": _keep_dtype,
    "customize_dtypes": _dtypes,
}
