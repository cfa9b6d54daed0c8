"""The two sides of a comparison: models, compiled models and saved outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from omfuse.diff import emulate, weights
from omfuse.diff.roles import is_float
from omfuse.errors import ModelError, UsageError
from omfuse.session import open_session
from omfuse.session_protocol import Array, Session

Source = str | Path | onnx.ModelProto | Mapping[str, Array] | Session


@dataclass
class Side:
    """One side, ready to run.

    Attributes:
        label: path or description.
        device: ``host``, ``sim``, ``ascend`` or ``saved``.
        session: None for saved outputs.
        saved: outputs of a file.
        model: the ONNX model when there is one.
        owned: the session was opened here and is closed with the side.
        base_dir: folder of the model's weights that are too large to be held.
    """

    label: str
    device: str
    session: Session | None = None
    saved: Mapping[str, Array] | None = None
    model: onnx.ModelProto | None = None
    owned: bool = True
    base_dir: Path | None = None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for these inputs; saved outputs are returned as they are."""
        if self.saved is not None:
            return dict(self.saved)
        assert self.session is not None
        return self.session.run(feeds)

    def close(self) -> None:
        """Free the session, unless it is the caller's."""
        if self.session is not None and self.owned:
            self.session.close()


def open_side(
    source: Source, device: str | None = None, isolated: bool | None = None, **options: Any
) -> Side:
    """Open a side.

    Args:
        source: path of ``.onnx``, ``.om`` or ``.npz``, a model, outputs by name, or a session.
        device: for ``.om``: ``sim`` or ``ascend``; ``sim`` when None.
        isolated: for models: run onnxruntime in a process of its own.
        options: for the device's session; for a model in memory ``base_dir``, where its external
            data is.

    Raises:
        OmfuseError: what loading has to say.
    """
    from omfuse.diff.golden import load_model
    from omfuse.diff.inputs import is_half
    from omfuse.host.session import HostSession

    if isinstance(source, Mapping):
        return Side("saved outputs", "saved", saved=source)
    if not isinstance(source, str | Path | onnx.ModelProto):
        return Side("session", source.device, source, owned=False)
    if isinstance(source, onnx.ModelProto):
        apart = is_half(source) if isolated is None else isolated
        model, folder = source, None
        if options.get("base_dir") is not None:
            model = emulate.copy_of(source)
            folder = weights.load_small(model, Path(options["base_dir"]))
        session = HostSession(model, isolated=apart, base_dir=folder)
        return Side("model", "host", session, model=model, base_dir=folder)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return Side(str(path), "saved", saved=load_npz(path))
    if suffix == ".om":
        used = device or "sim"
        return Side(str(path), used, open_session(path, used, **options))
    if suffix != ".onnx":
        raise UsageError(
            "unknown-side",
            f"cannot compare a {suffix or 'nameless'} file",
            str(path),
            "a side is an .onnx, an .om or an .npz of saved outputs",
        )
    if device not in (None, "host"):
        raise UsageError(
            "wrong-artefact",
            f"device {device} does not run .onnx files",
            str(path),
            "`omfuse compile` makes an .om",
        )
    model, folder = load_model(path)
    apart = is_half(model) if isolated is None else isolated
    session = HostSession(path, isolated=apart, **options)
    return Side(str(path), "host", session, model=model, base_dir=folder)


def load_npz(path: Path) -> dict[str, Array]:
    """Read arrays by name.

    Raises:
        ModelError: ``data-not-found``, ``data-unreadable``.
    """
    if not path.is_file():
        raise ModelError("data-not-found", "no such file", str(path), "check the path")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy raises zipfile's, pickle's and its own errors
        raise ModelError(
            "data-unreadable",
            "not an .npz file of plain arrays",
            str(path),
            "write it with numpy.savez or --save-outputs",
        ) from error


def precision_of(side: Side) -> str:
    """Return what a side computes in: its narrowest float dtype; fp16 for compiled models.

    ATC computes fp32 models in fp16 unless told otherwise, and the .om does not say.
    """
    if side.device in ("sim", "ascend"):
        return "fp16"
    names: set[str] = set()
    if side.session is not None:
        names = {t.dtype.name for t in (*side.session.inputs, *side.session.outputs)}
    elif side.saved is not None:
        names = {a.dtype.name for a in side.saved.values() if is_float(a.dtype)}
    if side.model is not None:
        types = {t.data_type for t in side.model.graph.initializer}
        names |= {"float16"} if onnx.TensorProto.FLOAT16 in types else set()
        names |= {"bfloat16"} if onnx.TensorProto.BFLOAT16 in types else set()
    if "bfloat16" in names:
        return "bf16"
    return "fp16" if "float16" in names else "fp32"


def pair_outputs(
    golden: Mapping[str, Array], other: Mapping[str, Array]
) -> tuple[list[tuple[str, Array | None]], list[str]]:
    """Match outputs by name, by the end of a name that a compiler extended, or by position.

    Returns:
        Golden name and the other side's array (None when there is none); notes for the report.
    """
    notes: list[str] = []
    pairs: list[tuple[str, Array | None]] = []
    spare = [name for name in other if name not in golden]
    for position, name in enumerate(golden):
        match = name if name in other else None
        if match is None:
            match = next((s for s in spare if s.split(":")[-1] == name), None)
        if match is None and len(other) == len(golden):
            candidate = list(other)[position]
            match = candidate if candidate in spare else None
            if match:
                notes.append(f"output {name} is compared with {match} by position")
        pairs.append((name, other[match] if match else None))
    return pairs, notes
