"""What ATC said on the board, with the advice that was brought along.

Python 3.8 and the standard library only.  The table is that of ``omfuse.atc.messages``, written
into the bundle as JSON.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from omfuse.errors import ToolchainError

TABLE = "configs/messages.json"
_CODE = re.compile(r"(?:^[. \t]*|\()(E[0-9A-Z][0-9A-F]{4})(?:\)|:)(.*)$", re.M)
_STAMP = re.compile(r"^\s*(\[PID: ?\d+\])?[\d\-:. ]*")
_INNER = ("9999", "8888")


def explained(output: str, folder: Path, log: Path) -> ToolchainError:
    """Return the error for a failed ATC: its first code that is not inner, cause and fix.

    Args:
        output: everything that ATC printed.
        folder: of the bundle.
        log: where the output was written.
    """
    found = _CODE.findall(output)
    named = [entry for entry in found if not entry[0].endswith(_INNER)] or found
    if not named:
        lines = [line for line in output.splitlines() if line.strip(" .")]
        text = " | ".join(lines[-3:]) or "it printed nothing"
        return ToolchainError("atc-failed", f"ATC gave no reason: {text}", str(log), _HOW)
    code, text = named[0]
    table = json.loads((folder / TABLE).read_text("utf-8"))
    entry = table.get(code) or table.get(code[:2])
    message = f"ATC {code}: {_STAMP.sub('', text).strip()}"
    if entry is None:
        return ToolchainError("atc-failed", message, str(log), _HOW)
    return ToolchainError(
        "atc-failed",
        f"{entry['title']} ({message})",
        str(log),
        f"{entry['fix']}\n  cause: {entry['cause']}",
    )


_HOW = "the log has all of it; --log=debug in the arguments of bundle.json gives more"
