"""One run of ATC: start it in a private folder, judge the result, explain a failure.

Success is exit code 0, the success line, a fresh non-empty ``.om`` and that our reader accepts it;
anything less is a failure, because each of them was seen alone without the others.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omfuse.atc import messages as atc_messages
from omfuse.atc import process
from omfuse.atc.environment import Toolchain
from omfuse.atc.messages import AtcMessage
from omfuse.atc.options.fields import AtcOptions, command_text
from omfuse.atc.process import Outcome, Tick
from omfuse.atc.reports import (
    FusionPass,
    Unsupported,
    group_unsupported,
    read_check_result,
    read_fusion_result,
)
from omfuse.errors import OmfuseError, ToolchainError

LOG_NAME = "atc.log"


class AtcError(ToolchainError):
    """ATC failed.

    Attributes:
        messages: everything it said, in order.
        unsupported: operators without a parser.
        folder: the run folder with its log.
        warnings: what was found before ATC started; one of them may be the reason.
    """

    def __init__(
        self,
        code: str,
        message: str,
        folder: Path,
        *,
        where: str | None = None,
        hint: str | None = None,
        messages: Sequence[AtcMessage] = (),
        unsupported: Sequence[Unsupported] = (),
    ) -> None:
        super().__init__(code, message, where, hint)
        self.messages, self.unsupported, self.folder = list(messages), list(unsupported), folder
        self.warnings: list[str] = []

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form with ATC's own messages."""
        return {
            **super().as_dict(),
            "atc": [m.as_dict() for m in self.messages],
            "unsupported": [u.as_dict() for u in self.unsupported],
            "log": str(self.folder / LOG_NAME),
            "warnings": self.warnings,
        }


@dataclass
class AtcRun:
    """A good run: the file it wrote, what it said, and what its reports say."""

    om: Path
    outcome: Outcome
    messages: list[AtcMessage]
    fusions: list[FusionPass]
    extra_files: list[Path] = field(default_factory=list)
    info: Any = None


def run_atc(
    toolchain: Toolchain,
    options: AtcOptions,
    folder: Path,
    env: Mapping[str, str],
    timeout: float | None = None,
    on_tick: Callable[[Tick], None] | None = None,
    opset: int | None = None,
    verify: Callable[[Path], Any] | None = None,
) -> AtcRun:
    """Run ATC in ``folder`` and judge the result.

    Args:
        toolchain: the ATC to start.
        options: with ``output`` inside ``folder``.
        folder: private working folder; the log and ATC's own files stay there.
        env: environment of the child.
        timeout: seconds, None for no limit.
        on_tick: called with progress a few times a second.
        opset: opset of the model, for advice on operators.
        verify: reads the ``.om`` and returns what it found; its error means failure.

    Raises:
        AtcError: ``atc-e10001`` and alike by code of ATC, ``atc-arguments``, ``atc-timeout``,
            ``atc-killed``, ``atc-crashed``, ``atc-silent``, ``atc-no-om``, ``atc-bad-om``.
    """
    argv = [str(toolchain.atc), *options.to_argv()]
    (folder / "command.txt").write_text(command_text(argv[0], argv[1:]) + "\n", "utf-8")
    outcome = process.run_program(argv, folder, env, folder / LOG_NAME, timeout, on_tick)
    said = atc_messages.parse_messages(outcome.output)
    succeeded = outcome.code == 0 and atc_messages.SUCCESS_LINE in outcome.output
    if outcome.timed_out or not succeeded:
        report = folder / (options.check_report or "check_result.json")
        raise _failure(outcome, said, folder, read_check_result(report, opset), opset)
    om = _find_om(Path(str(options.output)))
    if om is None:
        raise AtcError(
            "atc-no-om",
            "ATC reported success but wrote no .om",
            folder,
            where=str(folder),
            hint="check the free space of the disk; the log is in the run folder",
            messages=said,
        )
    try:
        info = verify(om) if verify is not None else None
    except OmfuseError as error:
        raise AtcError(
            "atc-bad-om",
            f"ATC reported success but its .om is not readable: {error.message}",
            folder,
            where=str(om),
            hint="compile again; if it stays, keep the run folder for a report",
            messages=said,
        ) from error
    return AtcRun(
        om, outcome, said, read_fusion_result(folder / "fusion_result.json"), _extras(om), info
    )


def _find_om(output: Path) -> Path | None:
    """Return what ATC wrote: ``out.om``, or ``out_linux_x86_64.om`` with host operators inside."""
    names = [
        output.with_name(output.name + ".om"),
        *sorted(output.parent.glob(f"{output.name}_*.om")),
    ]
    return next((p for p in names if p.is_file() and p.stat().st_size > 0), None)


def _extras(om: Path) -> list[Path]:
    """Return files that belong to the .om: external weights of either form."""
    folder = om.parent
    combined = sorted(folder.glob("*_weight_combined"))
    weights = folder / "weight"
    return [*combined, *([weights] if weights.is_dir() else [])]


def _failure(
    outcome: Outcome,
    said: list[AtcMessage],
    folder: Path,
    unsupported: Sequence[Unsupported],
    opset: int | None,
) -> AtcError:
    log = folder / LOG_NAME
    if outcome.timed_out:
        return AtcError(
            "atc-timeout",
            f"ATC was ended after {outcome.seconds:.0f} s without a result",
            folder,
            where=str(log),
            hint="give more time with --timeout, or fewer gears",
            messages=said,
        )
    head = atc_messages.headline(said)
    trouble = atc_messages.parser_trouble(outcome.output)
    if head is not None and not (head.inner and trouble):
        return _by_code(head, said, folder, unsupported, opset)
    if trouble is not None:
        what, fix = trouble
        return AtcError("atc-arguments", what, folder, where=str(log), hint=fix, messages=said)
    if outcome.code in (137, -signal.SIGKILL):
        return AtcError(
            "atc-killed",
            "ATC was killed, most often because memory ran out",
            folder,
            where=str(log),
            hint="--parallel 1 compiles one operator at a time; add swap, or fewer gears",
        )
    if outcome.code < 0:
        name = signal.Signals(-outcome.code).name
        return AtcError(
            "atc-crashed",
            f"ATC ended by {name}",
            folder,
            where=str(log),
            hint="run again with --set log=debug; the log is in the run folder",
        )
    tail = [line for line in outcome.output.splitlines() if line.strip(" .")][-3:]
    return AtcError(
        "atc-silent",
        f"ATC ended with code {outcome.code} and gave no reason",
        folder,
        where=str(log),
        hint="its last lines: " + " | ".join(tail) if tail else "it printed nothing",
    )


def _by_code(
    head: AtcMessage,
    said: list[AtcMessage],
    folder: Path,
    unsupported: Sequence[Unsupported],
    opset: int | None,
) -> AtcError:
    advice = atc_messages.advise(head.code, head.subject)
    if not unsupported and "unsupported" in advice.flags:
        groups: dict[str, list[str]] = {}
        for message in said:
            if "unsupported" in atc_messages.advise(message.code).flags and message.op_type:
                groups.setdefault(message.op_type, []).append(message.subject)
        unsupported = group_unsupported(groups, opset)
    hint = advice.fix
    if unsupported:
        lines = [f"{u.key} x{len(u.nodes)} ({u.nodes[0]}): {u.advice}" for u in unsupported[:8]]
        hint = "\n       ".join(["", *lines])
    text = f"{advice.title} (ATC {head.code})"
    if head.text:
        text += f": {head.text}"
    if head.detail:
        text += f" {head.detail}"
    return AtcError(
        f"atc-{head.code.lower()}",
        text,
        folder,
        where=head.subject or None,
        hint=f"{hint}\n  cause: {advice.cause}\n  log: {folder / LOG_NAME}",
        messages=said,
        unsupported=unsupported,
    )
