"""A broken rule of ATC's command line, found before ATC starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omfuse.atc.config import SocConfig
from omfuse.errors import UsageError


def is_whole(text: str) -> bool:
    """Tell whether a text is a number as ATC reads it: ASCII digits, no sign."""
    return text.isascii() and text.isdigit() and len(text) <= 100


@dataclass(frozen=True)
class RuleBreak:
    """One broken rule.

    Attributes:
        code: the code with which ATC would have stopped; empty when only the documentation
            speaks and the code that was read does not enforce it.
        flag: the flag concerned.
        message: what is wrong.
        hint: how to put it right.
        severity: ``error`` stops the compile, ``warning`` is shown and the compile goes on.
    """

    code: str
    flag: str
    message: str
    hint: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        return f"--{self.flag}: {self.message}" + (f" (ATC {self.code})" if self.code else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class RuleContext:
    """What is known beside the options.

    Attributes:
        soc: configuration of the target, None when unknown.
        cann_major: major version of CANN, None when unknown.
        inputs: the model's real inputs with their shapes, None when no model is at hand.
        nodes: name -> number of outputs of the nodes that ATC will see, None when not known.
        tensors: names of the values that those nodes make.
    """

    soc: SocConfig | None = None
    cann_major: int | None = None
    inputs: Mapping[str, Sequence[int | str]] | None = None
    nodes: Mapping[str, int] | None = None
    tensors: frozenset[str] = frozenset()


class BrokenRuleError(Exception):
    """The first broken rule of a group whose later rules make no sense any more."""

    def __init__(self, code: str, flag: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.rule = RuleBreak(code, flag, message, hint)


class OptionsError(UsageError):
    """The options break rules of ATC; ``breaks`` lists all of them."""

    def __init__(self, breaks: Sequence[RuleBreak]) -> None:
        first = breaks[0]
        more = f"; and {len(breaks) - 1} more" if len(breaks) > 1 else ""
        hints = [b.hint for b in breaks if b.hint]
        others = "".join(f"\n  also {b}" for b in breaks[1:])
        super().__init__(
            "atc-options",
            f"{first}{more}{others}",
            where=f"--{first.flag}",
            hint="; ".join(dict.fromkeys(hints)) or None,
        )
        self.breaks = list(breaks)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form with every broken rule."""
        return {**super().as_dict(), "rules": [b.as_dict() for b in self.breaks]}
