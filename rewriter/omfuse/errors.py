"""One family of errors: what happened, where, and how to fix it.

Each class fixes the process exit code; each instance carries a stable ``code`` that scripts and
tests may rely on, the place in the graph or file, and a hint that the user can act on.
Standard library only and Python 3.8 syntax: ``omfuse.acl`` uses it on old boards.
"""

from __future__ import annotations

from typing import Any


class OmfuseError(Exception):
    """Base of every error that omfuse raises on purpose.

    Args:
        code: stable kebab-case identifier, for example ``"model-truncated"``.
        message: what happened, one sentence without a full stop.
        where: file, node or tensor concerned.
        hint: what the user can do about it.

    Attributes:
        final: the session or device is gone: no other input or try can mend it.
    """

    exit_code = 2
    final = False

    def __init__(
        self, code: str, message: str, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form used by ``--json``."""
        return {
            "code": self.code,
            "message": self.message,
            "where": self.where,
            "hint": self.hint,
        }


class UsageError(OmfuseError):
    """The command or call is wrong: a flag, a shape, a configuration value (exit 2)."""


class ModelError(OmfuseError):
    """The input model or data file cannot be used (exit 2)."""


class OutputError(OmfuseError):
    """The result could not be written; nothing half-written is left behind (exit 2)."""


class ToolchainError(OmfuseError):
    """An outside tool (ATC, compiler, onnxruntime) failed (exit 3)."""

    exit_code = 3


class DeviceError(OmfuseError):
    """A device call failed (exit 3)."""

    exit_code = 3


class NotAvailableError(OmfuseError):
    """This machine lacks what the command needs, such as CANN or a compiler (exit 4)."""

    exit_code = 4
