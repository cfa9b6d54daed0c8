"""Read the command line as ATC does: getopt with prefixes, three kinds of values, value sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omfuse.atc.options.flags import FLAGS, Flag
from omfuse.sim.atc.failure import ArgumentTrouble, bad_value, fail

_TRUE = ("1", "t", "true", "y", "yes", "")
_FALSE = ("0", "f", "false", "n", "no")


def read_arguments(argv: Sequence[str]) -> dict[str, str]:
    """Return flag -> text; the last of a repeated flag wins, each is checked.

    Raises:
        ArgumentTrouble: what getopt itself refuses.
        AtcFailure: a value of the wrong kind or outside its closed set.
    """
    if not argv:
        raise ArgumentTrouble(
            "ERROR: input argument value is empty or command line format is invalid"
        )
    words, found = list(argv), {}
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word in ("-", "--"):
            raise ArgumentTrouble(f"ERROR: Non-option parameter: {word}")
        body = word.lstrip("-") if word.startswith("--") else word[1:]
        raw, equals, value = body.partition("=")
        if word[1] != "-" and len(raw) == 1 and raw != "h":
            raise ArgumentTrouble(f"ERROR: unknown command line flag '{raw}'")
        flag = _flag("help" if raw == "h" else raw)
        if not equals and flag.kind != "bool":
            if not words:
                raise ArgumentTrouble(
                    f"ERROR: flag '--{flag.name}' is missing its argument; "
                    f"flag description: {flag.name} of an ATC run"
                )
            value = words.pop(0)
        found[flag.name] = _checked(flag, value)
    return found


def _flag(raw: str) -> Flag:
    name = raw.replace("-", "_")
    if name in FLAGS:
        return FLAGS[name]
    near = [flag for known, flag in FLAGS.items() if name and known.startswith(name)]
    if len(near) != 1:
        raise ArgumentTrouble(f"ERROR: unknown command line flag '{raw}'")
    return near[0]


def _checked(flag: Flag, value: str) -> str:
    if flag.kind == "bool":
        if value.lower() in _TRUE:
            return "true"
        if value.lower() in _FALSE:
            return "false"
        raise bad_value(flag.name, value, "It is not a bool.", "E10003")
    if flag.kind == "int" and not re.fullmatch(r"\d+", value):
        raise bad_value(flag.name, value, "It is not an integer.", "E10003")
    if flag.values and value not in flag.values:
        allowed = " ".join(f"[{word}]" for word in flag.values)
        if flag.bad_value == "E10007":
            raise fail("E10007", f"[--{flag.name}] must be one of {allowed}")
        raise bad_value(
            flag.name,
            value,
            f"The value is not within the range of values. The valid range is {allowed} .",
            flag.bad_value,
        )
    return value
