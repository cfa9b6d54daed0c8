"""Run the command line inside the test process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omfuse.cli.app import run


def omfuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as ended:
        run([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def omfuse_json(
    capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, dict[str, Any]]:
    """Return exit code and the one JSON object of a command."""
    code, out, _ = omfuse(capsys, *arguments, "--json")
    return code, json.loads(out)
