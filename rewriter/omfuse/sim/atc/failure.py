"""Failures of the stand-in, and how ATC of each era prints them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START = "ATC start working now, please wait for a moment."
DOTS = "..."
SUCCESS = "ATC run success, welcome to the next use."
FAILED = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"

# Codes that CANN 8.x prints under an older number.
OLD_CODES = {
    "E13000": "E19000",
    "E13001": "E19001",
    "E13003": "E19003",
    "E13004": "E19004",
    "E13005": "E19005",
    "E13009": "E19009",
    "E13010": "E19010",
    "E13014": "E19014",
    "E13015": "E19015",
    "E13018": "E19018",
    "E13023": "E19023",
    "E13026": "E19026",
}
# Names of 9.x for codes, as far as they are known; others get one by their kind.
_NAMES = {
    "E10001": "Invalid_Argument",
    "E13010": "Not_Supported_Operator",
    "E20001": "Op_Compile_Failed",
}


@dataclass(frozen=True)
class Message:
    """One message by its 9.x code; ``trace`` are lines of the trace back."""

    code: str
    text: str
    cause: str = ""
    solution: str = ""
    trace: tuple[str, ...] = ()


class AtcFailure(Exception):  # noqa: N818
    """The stand-in stops: messages in order, before or after the work began.

    Args:
        messages: what to print.
        started: whether the line of dots is printed (argument failures come before it).
    """

    def __init__(self, messages: Sequence[Message], started: bool = False) -> None:
        super().__init__(messages[0].text if messages else "")
        self.messages, self.started = tuple(messages), started


class ArgumentTrouble(Exception):  # noqa: N818
    """Trouble in the command line reader: one line on stderr, without a code."""


def fail(code: str, text: str, cause: str = "", solution: str = "") -> AtcFailure:
    """Return a failure with one message."""
    return AtcFailure([Message(code, text, cause, solution)])


def bad_value(flag: str, value: str, reason: str, code: str = "E10001") -> AtcFailure:
    """Return the failure for a flag with an invalid value."""
    return fail(
        code,
        f"Value [{value}] for parameter [--{flag}] is invalid. Reason: {reason}",
        solution="Correct the value.",
    )


def era_of(env: Mapping[str, str]) -> int:
    """Return the era of the error texts."""
    text = env.get("OMFUSE_SIM_ATC_ERA", "8")
    return int(text) if text in ("7", "8", "9") else 8


def code_in(code: str, era: int) -> str:
    """Return the number under which an era prints a code."""
    return OLD_CODES.get(code, code) if era < 9 else code


def lines_of(message: Message, era: int) -> list[str]:
    """Return the lines of a message in the form of an era."""
    code = code_in(message.code, era)
    if code.endswith(("9999", "8888")):
        title = "Internal error!" if era >= 9 else "Inner Error!"
        body = [f"{code}: {title}", f"{code}  {message.text}[FUNC:Build][FILE:build.cc][LINE:1]"]
        return body + [f"        {line}" for line in message.trace]
    stamp = f"[PID: {os.getpid()}] {time.strftime('%Y-%m-%d-%H:%M:%S')}.000.000"
    if era >= 9:
        name = _NAMES.get(message.code, "Invalid_Parameter")
        lines = [f"{stamp} {name}({code}): {message.text}"]
    elif era == 8:
        lines = [f"{code}: {stamp} {message.text}"]
    else:
        lines = [f"{code}: {message.text}"]
    if message.cause and era >= 8:
        lines.append(f"        Possible Cause: {message.cause}")
    if message.solution:
        lines.append(f"        Solution: {message.solution}")
    lines.append("        TraceBack (most recent call last):")
    return lines + [f"        {line}" for line in (message.trace or (message.text,))]


def print_failure(failure: AtcFailure, era: int) -> list[str]:
    """Return everything that follows the failure on standard output."""
    lines = [DOTS] if failure.started else []
    lines.append(FAILED)
    for message in failure.messages:
        lines += lines_of(message, era)
    if not failure.messages:
        lines += ["E19999: Internal Error!", "An unknown error occurred. Please check the log."]
    return lines
