"""The golden run, kept: the original in onnxruntime, unoptimised, in fp32, same input bytes.

Results live in the cache folder under a key of model bytes, weight files, input bytes,
onnxruntime version and what was run, so a second comparison costs only the other side.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from omfuse.diff import emulate, weights
from omfuse.diff.inputs import is_half
from omfuse.errors import ModelError
from omfuse.host.feeding import write_npz
from omfuse.session_protocol import Array, Session

DEAD_SCORE = -5e3  # every fill in use is -1e4 or below; live scores are far above


def cache_folder() -> Path:
    """Return ``$OMFUSE_CACHE`` or ``omfuse/golden`` in the user's cache folder."""
    own = os.environ.get("OMFUSE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "omfuse" / "golden"


@dataclass
class Original:
    """A model as the reference: loaded once, run in several precisions.

    Attributes:
        model: with its small weights; float16 parts still float16.
        wide: the same in fp32.
        digest: hash of model and weights.
        isolated: run onnxruntime in a process of its own.
        cache: folder for results, None for none.
        base_dir: folder of the weights that are too large to be held.
    """

    model: onnx.ModelProto
    wide: onnx.ModelProto
    digest: str
    isolated: bool
    cache: Path | None = None
    base_dir: Path | None = None
    hits: int = 0
    _open: dict[str, Session] = field(default_factory=dict)

    def close(self) -> None:
        """Free all sessions."""
        for session in self._open.values():
            session.close()
        self._open.clear()

    def run(
        self, feeds: Mapping[str, Array], precision: str = "fp32", taps: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Run the model.

        Args:
            feeds: inputs in the model's own dtypes.
            precision: ``fp32`` for the golden, ``fp16`` or ``bf16`` for the emulated run.
            taps: inner tensors to return as well.

        Raises:
            OmfuseError: what onnxruntime has against the model.
        """
        key = self._key(feeds, precision, taps)
        kept = _load(self.cache, key)
        if kept is not None:
            self.hits += 1
            return kept
        session = self._session(precision, tuple(taps))
        results = session.run(_widened(feeds))
        _save(self.cache, key, results)
        return results

    def emulated(
        self,
        feeds: Mapping[str, Array],
        golden: Mapping[str, Array],
        precision: str,
        taps: Sequence[str] = (),
    ) -> tuple[dict[str, Array], str]:
        """Return the same-precision run, and the precision it ran in.

        fp32 is judged by a scaled fp16 run, or a bf16 run when the model overflows in fp16.
        """
        ladder = ("fp16", "bf16") if precision == "fp32" else (precision,)
        for ran_in in ladder:
            result = self.run(feeds, ran_in, taps)
            if not any(_lost(array, result[name]) for name, array in golden.items()):
                break
        return result, ran_in

    def dead_rows(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return one bool array a softmax, ``[..., Sq]``, true where no key is kept."""
        key = self._key(feeds, "rows", ())
        kept = _load(self.cache, key)
        if kept is None:
            if "rows" not in self._open:
                model, names = emulate.row_maxima(self.wide)
                self._open["rows"] = self._start(emulate.with_outputs(model, names), ())
            session = self._open["rows"]
            kept = session.run(_widened(feeds)) if session.outputs else {}
            _save(self.cache, key, kept)
        return [~(values > DEAD_SCORE) for values in kept.values()]

    def forget(self, precision: str) -> None:
        """Close the session of one precision to free its memory."""
        for name in [name for name in self._open if name.startswith(precision)]:
            self._open.pop(name).close()

    def _session(self, precision: str, taps: tuple[str, ...]) -> Session:
        name = precision + "\0".join(("", *taps))
        if name not in self._open:
            if len(self._open) >= 6:
                self._open.pop(next(iter(self._open))).close()
            wide = self.wide
            model = wide if precision == "fp32" else emulate.rounded(wide, precision)
            self._open[name] = self._start(model, taps)
        return self._open[name]

    def _start(self, model: onnx.ModelProto, taps: tuple[str, ...]) -> Session:
        from omfuse.host.session import HostSession

        return HostSession(
            model,
            lowering="body",
            optimize=False,
            extra_outputs=taps,
            isolated=self.isolated,
            base_dir=self.base_dir,
        )

    def _key(self, feeds: Mapping[str, Array], precision: str, taps: Sequence[str]) -> str:
        import onnxruntime

        digest = hashlib.sha256()
        parts = (self.digest, precision, onnxruntime.__version__, "golden/2", *sorted(taps))
        for part in parts:
            digest.update(part.encode() + b"\0")
        digest.update(inputs_digest(feeds).encode())
        return digest.hexdigest()


def _lost(golden: Array, emulated: Array) -> bool:
    """Tell whether a tensor is finite in fp32 and not in the narrow run."""
    floats = emulated.dtype.kind == "f" and np.isfinite(golden).all()
    return bool(floats and not np.isfinite(emulated).all())


def _widened(feeds: Mapping[str, Array]) -> dict[str, Array]:
    half = ("float16", "bfloat16")
    return {n: a.astype(np.float32) if a.dtype.name in half else a for n, a in feeds.items()}


def inputs_digest(feeds: Mapping[str, Array]) -> str:
    """Hash names, dtypes, shapes and bytes of inputs."""
    digest = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_original(
    model: onnx.ModelProto | str | Path,
    *,
    isolated: bool | None = None,
    cache: Path | bool | None = True,
    base_dir: Path | None = None,
) -> Original:
    """Load a model as the reference.

    Args:
        model: path or model.
        isolated: run it in a process of its own; by default only fp16 and bf16 models.
        cache: folder for results; true for the user's cache folder, false for none.
        base_dir: folder of the external data of a model in memory.

    Raises:
        ModelError: ``model-not-found``, ``model-unreadable``, ``external-data-missing``.
    """
    if isinstance(model, onnx.ModelProto):
        proto = model
    else:
        proto, base_dir = load_model(model)
    digest = hashlib.sha256()
    for graph in (proto.graph,):
        digest.update(graph.SerializeToString(deterministic=True))
    digest.update(b"".join(f.SerializeToString(deterministic=True) for f in proto.functions))
    digest.update(weights.stamp(proto, base_dir))
    digest.update(repr([(o.domain, o.version) for o in proto.opset_import]).encode())
    folder = cache_folder() if cache is True else cache or None
    return Original(
        proto,
        emulate.widen(proto),
        digest.hexdigest(),
        is_half(proto) if isolated is None else isolated,
        folder,
        base_dir,
    )


def load_model(path: str | Path) -> tuple[onnx.ModelProto, Path]:
    """Load an ONNX file with its small weights; return it and the folder of the large ones.

    Raises:
        ModelError: ``model-not-found``, ``model-unreadable``, ``external-data-missing``.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError("model-not-found", "no such file", str(path), "check the path")
    try:
        model = onnx.load(path, load_external_data=False)
        folder = weights.load_small(model, path)
    except (FileNotFoundError, onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            "external-data-missing",
            str(error).splitlines()[0][:300],
            str(path),
            "keep the weight files beside the .onnx file, whole and under their own names",
        ) from error
    except (DecodeError, OSError) as error:
        raise ModelError(
            "model-unreadable",
            "not an ONNX model, or cut short",
            str(path),
            "export it again, or check that the download or copy is complete",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(
            "model-unreadable", "the file holds no graph", str(path), "export it again"
        )
    return model, folder


def _load(folder: Path | None, key: str) -> dict[str, Array] | None:
    path = folder / f"{key}.npz" if folder else None
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names = [str(name) for name in file["names"]]
            return {name: file[f"array_{i}"] for i, name in enumerate(names)}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # a damaged entry is written again


def _save(folder: Path | None, key: str, arrays: Mapping[str, Array]) -> None:
    if folder is None or any(array.dtype.kind in "OV" for array in arrays.values()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a cache that cannot be written is no reason to fail
    write_npz(folder / f"{key}.npz", numbered(arrays))


def numbered(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return what to put into an .npz: tensor names hold slashes, so they travel beside."""
    numbered = {f"array_{i}": array for i, array in enumerate(arrays.values())}
    return {"names": np.array(list(arrays), dtype=np.str_), **numbered}
