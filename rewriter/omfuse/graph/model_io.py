"""Load and save models without ever reading external weights, and never half-write a file."""

from __future__ import annotations

import contextlib
import filecmp
import heapq
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto

from omfuse.errors import ModelError, OutputError
from omfuse.graph.view import reads


def load_model(path: str | Path) -> onnx.ModelProto:
    """Load a model; external tensors stay references.

    Raises:
        ModelError: ``model-missing``, ``not-onnx``, ``cycle``, ``duplicate-name`` or
            ``external-data-missing``.
    """
    source = Path(path)
    try:
        model = onnx.load(source, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError("model-missing", "no such file", str(path)) from error
    except OSError as error:
        raise ModelError("model-unreadable", error.strerror or str(error), str(path)) from error
    except Exception as error:
        raise ModelError(
            "not-onnx",
            "the file is truncated or not an ONNX model",
            str(path),
            "export it again, or copy it again in binary mode",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError("not-onnx", "the file holds no ONNX graph", str(path))
    check_graph(model.graph, str(path))
    check_external(model, source)
    return model


def check_graph(graph: onnx.GraphProto, where: str) -> None:
    """Refuse graphs that no tool can run, and sort nodes that stand before their inputs.

    Raises:
        ModelError: ``duplicate-name`` for a value written twice, ``cycle`` for a cyclic graph.
    """
    known = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    known |= {t.values.name for t in graph.sparse_initializer}
    written: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for name in node.output:
            if name and (name in written or name in known):
                raise ModelError(
                    "duplicate-name", f"value {name!r} is written twice", f"{where}: {node.name}"
                )
            written[name] = index
    before = [{written[name] for name in reads(node) if name in written} for node in graph.node]
    if all(not early or max(early) < index for index, early in enumerate(before)):
        return
    order = _sorted(before, [node.name for node in graph.node], where)
    nodes = []
    for index in order:
        clone = onnx.NodeProto()
        clone.CopyFrom(graph.node[index])
        nodes.append(clone)
    del graph.node[:]
    graph.node.extend(nodes)


def _sorted(before: list[set[int]], names: list[str], where: str) -> list[int]:
    """Return a topological order that keeps the given order where it can."""
    readers: dict[int, list[int]] = {}
    open_inputs = [len(early) for early in before]
    for index, early in enumerate(before):
        for source in early:
            readers.setdefault(source, []).append(index)
    ready = [index for index, count in enumerate(open_inputs) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, []):
            open_inputs[reader] -= 1
            if open_inputs[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(before):
        stuck = next(name for name, count in zip(names, open_inputs, strict=True) if count)
        raise ModelError(
            "cycle", f"node {stuck!r} waits for its own result", where, "export the model again"
        )
    return order


def external_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors whose data lies outside the file, in every graph."""
    stack = [model.graph]
    functions = [node for function in model.functions for node in function.node]
    nodes = list(functions)
    while stack or nodes:
        if stack:
            graph = stack.pop()
            for tensor in graph.initializer:
                if tensor.data_location == TensorProto.EXTERNAL:
                    yield tensor
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t") and attribute.t.data_location == TensorProto.EXTERNAL:
                yield attribute.t
            if attribute.HasField("g"):
                stack.append(attribute.g)
            stack.extend(attribute.graphs)


def location_of(tensor: TensorProto) -> str:
    """Return the file that holds an external tensor, relative to the model."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def check_external(model: onnx.ModelProto, source: Path) -> None:
    """Check that external files exist, are long enough, and lie beside or below the model.

    Where ``source`` is a link, as in the cache of a model hub, beside what it points at will do.

    Args:
        model: what was read from ``source``.
        source: the file of the model, or its folder when it never was a file.

    Raises:
        ModelError: ``external-data-missing``, ``external-data-short`` or
            ``external-data-outside``.
    """
    where = str(source)
    root, real = _folders(source)
    sizes: dict[str, int] = {}
    for tensor in external_tensors(model):
        location = location_of(tensor)
        if location not in sizes:
            file = (root / location).resolve()
            if not location or not (file.is_relative_to(root) or file.is_relative_to(real)):
                raise ModelError(
                    "external-data-outside",
                    f"external data {location!r} lies outside the folder of the model",
                    where,
                    "keep the weights beside the model",
                )
            if not file.is_file():
                raise ModelError(
                    "external-data-missing",
                    f"external data file {location!r} is missing",
                    where,
                    "copy the weight file beside the model",
                )
            sizes[location] = file.stat().st_size
        entries = {entry.key: entry.value for entry in tensor.external_data}
        try:
            end = int(entries.get("offset", "0")) + int(entries.get("length", "0"))
        except ValueError:
            end = -1
        if not 0 <= end <= sizes[location]:
            raise ModelError(
                "external-data-short",
                f"external data file {location!r} is too short for {tensor.name!r}",
                where,
                "copy the weight file again",
            )


def _folders(source: Path) -> tuple[Path, Path]:
    """Return the folder of a model and, where it is a link, that of what it points at."""
    if source.is_dir():
        return source.resolve(), source.resolve()
    return source.parent.resolve(), source.resolve().parent


def follow_links(model: onnx.ModelProto, source: Path) -> Path:
    """Name external files by what links point at, in place, for readers that follow none.

    Args:
        model: what was read from ``source``.
        source: the file of the model, or its folder when it never was a file.

    Returns:
        The folder that the names are relative to.
    """
    root, real = _folders(source)
    tensors = list(external_tensors(model))
    files = [(root / location_of(tensor)).resolve() for tensor in tensors]
    if root == real or not all(file.is_relative_to(real) for file in files):
        return root
    for tensor, file in zip(tensors, files, strict=True):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(file.relative_to(real))
    return real


def copy_model(source: str | Path, path: str | Path) -> None:
    """Copy a model file byte by byte, with its external data, atomically.

    Raises:
        OutputError: as :func:`save_model`.
    """
    model = onnx.load(source, load_external_data=False)
    _write(path, Path(source).parent, model, Path(source).read_bytes())


def save_model(model: onnx.ModelProto, path: str | Path, source_folder: Path | None = None) -> None:
    """Write a model beside its external data, atomically.

    External files are copied by the file system, never parsed, next to the output when it lies in
    another folder than the original.

    Raises:
        OutputError: ``output-not-writable``, ``disk-full`` or ``external-data-clash``.
    """
    try:
        data = model.SerializeToString(deterministic=True)
    except Exception as error:
        raise OutputError(
            "model-too-large",
            "the model exceeds the 2 GB of a protobuf",
            str(path),
            "store the weights as external data",
        ) from error
    _write(path, source_folder, model, data)


def _write(
    path: str | Path, source_folder: Path | None, model: onnx.ModelProto, data: bytes
) -> None:
    target = Path(path)
    folder = target.parent
    created: list[Path] = []
    try:
        if source_folder is not None and source_folder.resolve() != folder.resolve():
            _bring_external(model, source_folder, folder, created)
        with _replacing(target) as temporary:
            temporary.write_bytes(data)
    except BaseException as error:
        for file in created:
            with contextlib.suppress(OSError):
                file.unlink()
        if isinstance(error, OSError):
            code = "disk-full" if error.errno in (28, 122) else "output-not-writable"
            raise OutputError(
                code, error.strerror or str(error), str(target), "choose another output path"
            ) from error
        raise


def _bring_external(
    model: onnx.ModelProto, source: Path, folder: Path, created: list[Path]
) -> None:
    for location in sorted({location_of(tensor) for tensor in external_tensors(model)}):
        origin, target = source / location, folder / location
        if target.exists():
            if target.samefile(origin) or filecmp.cmp(target, origin, shallow=False):
                continue
            raise OutputError(
                "external-data-clash",
                f"{target} exists and is not the weight file of this model",
                str(target),
                "choose an empty output folder",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        created.append(target)
        # Not a hard link: onnx refuses external data with more than one.
        with _replacing(target) as temporary:
            shutil.copyfile(origin, temporary)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a private temporary file beside ``target`` that takes its place on success."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
