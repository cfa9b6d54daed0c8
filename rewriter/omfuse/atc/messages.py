"""Read what ATC printed: codes of all three eras, the headline, and advice from a table.

Eras: ``E19010: text`` (to 7.x), ``E20001: [PID: n] time text`` (8.x) and
``[PID: n] time Name(E13010): text`` (9.x).  Codes ending in 9999 or 8888 are inner errors; the
headline is the first code that is not inner.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_UNNAMED = "the operator it names"
_FAMILY = 2  # signs of a code that tell the component
SUCCESS_LINE = "ATC run success"
FAILURE_LINE = "ATC run failed"

_HEAD = re.compile(
    r"^(?:"
    # The stamp differs between releases and was not seen for each, so it may be absent.
    r"(?P<old>[EW][0-9A-Z][0-9A-F]{4}): ?(?:\[PID: ?\d+\] ?[\d\-:. ]*)?"
    r"|(?:\[PID: ?\d+\] ?[\d\-:. ]*)?(?P<name>[\w ]*)\((?P<new>[EW][0-9A-Z][0-9A-F]{4})\): ?"
    r")(?P<text>.*)$"
)
_INNER_LINE = re.compile(r"^(?P<code>[EW][0-9A-Z][0-9A-F]{4})\s+(?P<text>.*)$")
_OPTYPE = re.compile(r"optype:? ?\[?(?P<type>[\w.]+(?:::\d+)?::[\w.]+|[A-Za-z]\w*)\]?", re.I)
_OPERATOR = re.compile(r"\bop(?:erator)?:? ?\[(?P<op>[^\],]+)|Op: ?(?P<op2>[^,\s\[\]]+)", re.I)
_PLACE = re.compile(r"\[(?:FUNC|FILE|LINE):[^\]]*\]")
_BRACKET = re.compile(r"\[--?(?P<flag>\w+)\]|[Pp]arameter \[?-*(?P<parameter>[a-z]\w+)")


@dataclass(frozen=True)
class AtcMessage:
    """One message of ATC.

    Attributes:
        code: such as ``E13010``.
        name: the symbolic name that 9.x prints, else empty.
        text: the message itself.
        cause: ATC's own possible cause.
        solution: ATC's own solution.
        trace: lines of the trace back and of inner errors.
    """

    code: str
    name: str
    text: str
    cause: str = ""
    solution: str = ""
    trace: tuple[str, ...] = ()

    @property
    def inner(self) -> bool:
        """Whether it is an inner error of a component."""
        return self.code.endswith(("9999", "8888"))

    @property
    def detail(self) -> str:
        """What an inner error says in its first line, without the place in ATC's source."""
        lines = [_PLACE.sub("", line).strip() for line in self.trace] if self.inner else []
        return next((line for line in lines if line), "")

    @property
    def warning(self) -> bool:
        """Whether it is a warning."""
        return self.code.startswith("W")

    @property
    def subject(self) -> str:
        """The operator or flag that the message names, empty when it names none."""
        for text in (self.text, *self.trace):
            match = _OPERATOR.search(text)
            if match:
                return match["op"] or match["op2"]
            match = _BRACKET.search(text)
            if match:
                return match["flag"] or match["parameter"]
        return ""

    @property
    def op_type(self) -> str:
        """The operator type that the message names, such as ``ai.onnx::17::FlashAttention``."""
        match = _OPTYPE.search(" ".join((self.text, *self.trace)))
        return match["type"] if match else ""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "subject": self.subject, "op_type": self.op_type}


@dataclass(frozen=True)
class Advice:
    """What a code means and what to do."""

    code: str
    title: str
    cause: str
    fix: str
    flags: frozenset[str] = field(default_factory=frozenset)


@dataclass
class _Open:
    code: str
    name: str
    text: list[str]
    cause: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    def close(self) -> AtcMessage:
        return AtcMessage(
            self.code,
            self.name,
            " ".join(self.text).strip(),
            " ".join(self.cause).strip(),
            " ".join(self.solution).strip(),
            tuple(self.trace),
        )


def parse_messages(output: str) -> list[AtcMessage]:
    """Return every message in the order printed."""
    found: list[AtcMessage] = []
    current: _Open | None = None
    part = "text"
    for line in output.splitlines():
        # Compilers print progress dots without a line end, so a message may follow some.
        stripped = line.lstrip(". \t")
        match = _HEAD.match(stripped)
        if match and not (current and line[:1].isspace() and part == "trace"):
            if current:
                found.append(current.close())
            code = match["old"] or match["new"]
            current, part = _Open(code, (match["name"] or "").strip(), [match["text"]]), "text"
            continue
        if current is None:
            continue
        if _is_closing(line):
            found.append(current.close())
            current = None
            continue
        part = _take(current, part, stripped.strip())
    if current:
        found.append(current.close())
    return found


def _is_closing(line: str) -> bool:
    return line.startswith(("[ERROR]", "[INFO]", "[WARNING]", "ATC run", "ATC start"))


def _take(message: _Open, part: str, line: str) -> str:
    """Put one continuation line where it belongs and return the part that is open now."""
    for prefix, name in (("Possible Cause:", "cause"), ("Solution:", "solution")):
        if line.startswith(prefix):
            getattr(message, name).append(line[len(prefix) :].strip())
            return name
    if line.startswith("TraceBack"):
        return "trace"
    inner = _INNER_LINE.match(line)
    if inner and inner["code"] == message.code:
        message.trace.append(inner["text"].strip())
        return "trace"
    if line:
        getattr(message, part).append(line)
    return part


def headline(messages: Sequence[AtcMessage]) -> AtcMessage | None:
    """Return the message to show: the first error that is not inner, else the first error."""
    errors = [m for m in messages if not m.warning]
    return next((m for m in errors if not m.inner), errors[0] if errors else None)


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("omfuse.atc").joinpath("messages.toml").read_text("utf-8")
    entries: dict[str, dict[str, Any]] = tomllib.loads(text)
    entries |= entries.pop("families")
    for code, entry in list(entries.items()):
        for old in entry.get("was", ()):
            entries[old] = {**entry, "renamed": code}
    return entries


def advice_table() -> dict[str, dict[str, str]]:
    """Return title, cause and fix of every code, older names and families included."""
    return {
        code: {
            "title": entry["title"],
            "cause": entry["cause"],
            "fix": entry["fix"].replace("{subject}", _UNNAMED),
        }
        for code, entry in _table().items()
    }


def known_codes() -> tuple[str, ...]:
    """Return every code with an entry of its own or as an older name."""
    return tuple(code for code in _table() if len(code) > _FAMILY)


def advise(code: str, subject: str = "") -> Advice:
    """Explain a code, if need be by its component; an unknown one gets an answer that says so."""
    entry = _table().get(code) or _table().get(code[:_FAMILY])
    if entry is None:
        return Advice(
            code,
            f"ATC stopped with {code}",
            "omfuse has no entry for this code; ATC's own text is below",
            "read ATC's cause and solution; run again with --set log=debug for the trace",
        )
    flags = frozenset(k for k in ("custom_op", "unsupported", "inner") if entry.get(k))
    fix = entry["fix"].replace("{subject}", subject or _UNNAMED)
    return Advice(code, entry["title"], entry["cause"], fix, flags)


_PARSER_LINES = (
    (
        re.compile(r"ERROR: unknown command line flag '?(?P<x>[^'\n]*)"),
        "this ATC does not know the flag {x}",
        "drop it, or use a newer CANN",
    ),
    (
        re.compile(r"ERROR: flag '?(?P<x>[^'\n]*)'? is missing its argument"),
        "the flag {x} needs a value",
        "give it a value",
    ),
    (
        re.compile(r"ERROR: Non-option parameter: (?P<x>.*)"),
        "ATC found a loose word: {x}",
        "a value with a space or `;` was not quoted",
    ),
    (
        re.compile(r"error while loading shared libraries: (?P<x>[^:\s]+)"),
        "ATC does not start: it finds no {x}",
        "source CANN's set_env.sh; a host without NPU needs its driver stubs, <arch>-linux/devlib "
        "of the toolkit, in LD_LIBRARY_PATH",
    ),
    (
        re.compile(
            r"ERROR: input argument value is empty or command line format is invalid(?P<x>)"
        ),
        "ATC could not read its command line",
        "check the flags given with --set",
    ),
)


def parser_trouble(output: str) -> tuple[str, str] | None:
    """Return (what, fix) for trouble of the loader or ATC's command line reader, without codes."""
    for pattern, what, fix in _PARSER_LINES:
        match = pattern.search(output)
        if match:
            return what.format(x=match["x"].strip()), fix
    return None
