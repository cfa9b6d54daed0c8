"""Turn what onnxruntime and protobuf raise into errors with a code and a hint."""

from __future__ import annotations

import re

from omfuse.errors import ModelError, OmfuseError, ToolchainError

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_MISSING_DATA = re.compile(
    r"(cannot get file size|External data.*(not exist|cannot|fail|out of bounds)|"
    r"external initializer|GetFileLength|No such file or directory|file_size)",
    re.IGNORECASE | re.DOTALL,
)
_ESCAPES = re.compile(r"(escapes|absolute path|outside|is not allowed)", re.IGNORECASE)
_UNKNOWN_OP = re.compile(
    r"(is not a registered function/op|No Op registered for|No opset import for domain|"
    r"Could not find an implementation for|is not registered)",
    re.IGNORECASE,
)

UNREADABLE_HINT = "export it again, or check that the download or copy is complete"


def unreadable(where: str | None) -> ModelError:
    """Describe a file that is not an ONNX model or ends too early."""
    return ModelError(
        "model-unreadable", "not an ONNX model, or cut short", where=where, hint=UNREADABLE_HINT
    )


def not_found(where: str) -> ModelError:
    """Describe a model path that does not exist."""
    return ModelError("model-not-found", "no such file", where=where, hint="check the path")


def first_line(error: BaseException) -> str:
    """Return the telling part of an onnxruntime message."""
    text = _PREFIX.sub("", str(error)).strip()
    lines = text.splitlines() or [type(error).__name__]
    return lines[0][:400].rstrip(".")


def load_problem(error: Exception, where: str | None) -> OmfuseError:
    """Describe why onnxruntime did not accept a model."""
    kind, text = type(error).__name__, str(error)
    message = first_line(error)
    if kind == "InvalidProtobuf" or "Protobuf parsing failed" in text:
        return unreadable(where)
    if _UNKNOWN_OP.search(text):
        return ModelError(
            "unknown-op",
            message,
            where=where,
            hint="onnxruntime has no kernel for this operator: register its library with "
            "custom_ops=[...], or export with standard operators",
        )
    if _MISSING_DATA.search(text) or (_ESCAPES.search(text) and "xternal" in text):
        return ModelError(
            "external-data-missing",
            message,
            where=where,
            hint="keep the weight files beside the .onnx file, whole and under their own names",
        )
    if kind in ("InvalidGraph", "Fail", "NotImplemented", "InvalidArgument", "NoModel"):
        return ModelError(
            "model-rejected",
            f"onnxruntime rejects the model: {message}",
            where=where,
            hint="run `python -m onnx.checker` on it, or try a newer onnxruntime",
        )
    return ToolchainError(
        "onnxruntime-failed",
        f"onnxruntime could not load the model: {message}",
        where=where,
        hint="try a newer onnxruntime",
    )


def run_problem(error: Exception, where: str | None) -> ToolchainError:
    """Describe a failed run."""
    return ToolchainError(
        "onnxruntime-run-failed",
        f"onnxruntime failed while running: {first_line(error)}",
        where=where,
        hint="check that the inputs have the sizes the model was exported for",
    )
