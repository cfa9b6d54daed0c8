"""A compiled model on a device: open it, feed it by name, close it."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omfuse.acl import run_modes
from omfuse.acl.codes import AclError
from omfuse.acl.describe import Dims, load_description
from omfuse.acl.library import AclLibrary
from omfuse.acl.memory import BufferSet, to_device, to_host
from omfuse.acl.process import forked
from omfuse.acl.resources import Resources, SharedWorkspace
from omfuse.acl.shapes import (
    Choice,
    as_array,
    check_binding,
    check_names,
    check_target,
    choose,
    symbols,
)
from omfuse.acl.sizes import default_dims
from omfuse.errors import UsageError
from omfuse.session_protocol import TensorInfo


class DeviceSession:
    """A loaded .om; usable from any thread, one run at a time.

    Args:
        path: the file.
        library: the opened libascendcl.
        device: ``sim`` or ``ascend``, as shown in results.
        index: number of the device.
        load: ``file`` or ``memory`` (reads the file here and hands over its bytes).
        timeout: seconds a run may take, None for no limit.
        workspace: work memory to share with models that run at other times.

    Attributes:
        inputs: what must be fed; a size chosen at run time is a name.
        outputs: what comes back.
        mode: ``static``, ``batch``, ``image``, ``dims`` or ``dynamic``.
        kernels: FlashAttention node -> what computes it, where that is known.
        seconds: of the last run: ``h2d``, ``compute``, ``d2h``.

    Raises:
        AclError: what the library said; nothing stays behind on the device.
        ModelError: ``model-not-found``, ``bad-description``, ``dynamic-aipp``, ``acl-dtype``.
    """

    def __init__(
        self,
        path: str | Path,
        library: AclLibrary,
        device: str = "ascend",
        index: int = 0,
        *,
        load: str = "file",
        timeout: float | None = None,
        workspace: SharedWorkspace | None = None,
    ) -> None:
        self.device, self.index, self.path = device, index, str(path)
        self.kernels: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.timeout = timeout
        self._resources = Resources(library, index)
        # A session that is forgotten, or open at exit, still gives everything back.
        self._finalizer = weakref.finalize(self, self._resources.close)
        try:
            with self._resources.context.entered():
                self.model_id = self._resources.load(self.path, load, workspace)
                self.description = load_description(library, self.model_id, self.path)
                self._resources.make_stream()
                self._buffers = BufferSet(library, self.description)
                self._resources.on_close(self._buffers.close)
        except BaseException:
            self.close()
            raise
        self.mode = self.description.mode
        shown = symbols(self.description)
        self.inputs = [TensorInfo(t.name, t.dtype, shown[t.name]) for t in self.description.inputs]
        self.outputs = [
            TensorInfo(t.name, t.dtype, tuple(s if s >= 0 else "?" for s in t.dims))
            for t in self.description.outputs
        ]
        self._feedback: dict[int, int] = {}  # output -> input
        self._held: dict[int, Dims] = {}  # input whose value lies on the device -> its dims
        self._output_bytes: dict[Any, list[int]] = {}

    # ---- running
    def run(
        self,
        feeds: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        out: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run once and wait.

        Args:
            feeds: one array for each input, by name; inputs bound by :meth:`bind` may be left
                out once they have a value.
            outputs: names of the outputs to copy back; all that are not bound when None.
            out: arrays to copy outputs into, for example the same ones every time.

        Returns:
            One array for each output asked for.

        Raises:
            UsageError: ``bad-feed``, ``bad-shape``, ``unknown-output``, ``bad-out``,
                ``session-closed``.
            AclError: the run failed; nothing of its outputs is returned.
        """
        with self.ready() as library:
            wanted = self._wanted(outputs)
            targets = out or {}
            self._wanted(list(targets))  # no other names
            started = time.perf_counter()
            choice = self._prepare(library, feeds)
            copied = time.perf_counter()
            dims = self._compute(library, choice)
            computed = time.perf_counter()
            results = {}
            for index in wanted:
                slot = self._buffers.outputs[index]
                name, dtype, target = slot.tensor.name, slot.tensor.dtype, None
                if name in targets:
                    target = check_target(name, dtype, dims[index], targets[name])
                results[name] = to_host(library, slot, dims[index], target)
            ended = time.perf_counter()
            self._feed_back(dims)
        self.seconds = {"h2d": copied - started, "compute": computed - copied}
        self.seconds["d2h"] = ended - computed
        return results

    @contextlib.contextmanager
    def ready(self) -> Iterator[AclLibrary]:
        """Hold the session and its context; used by everything that calls the library.

        Raises:
            UsageError: ``session-closed``, ``session-broken``, ``forked``.
            AclError: the device fails now; then the session is broken.
        """
        resources = self._resources
        if resources.context.foreign:
            raise forked()
        with contextlib.ExitStack() as stack:
            stack.enter_context(resources.lock)
            if resources.closed:
                raise UsageError("session-closed", "this session is closed", hint="open a new one")
            if resources.broken is not None:
                raise UsageError(
                    "session-broken",
                    f"the device failed before: {resources.broken.message}",
                    where=self.path,
                    hint="close this session and open a new one",
                ) from resources.broken
            if resources.workspace is not None:
                stack.enter_context(resources.workspace.lock)
            stack.enter_context(resources.context.entered())
            try:
                yield resources.library
            except AclError as error:
                if error.final:
                    resources.broken = error
                else:
                    resources.settle()
                raise
            except KeyboardInterrupt:
                resources.settle()
                raise

    def _wanted(self, outputs: Sequence[str] | None) -> list[int]:
        names = [tensor.name for tensor in self.description.outputs]
        if outputs is None:
            return [index for index in range(len(names)) if index not in self._feedback]
        if isinstance(outputs, str):
            outputs = [outputs]
        for name in outputs:
            if name not in names:
                raise UsageError(
                    "unknown-output",
                    f"no output is called {name!r}",
                    hint=f"the model gives {', '.join(names)}",
                )
        return [names.index(name) for name in outputs]

    def check(self, feeds: Mapping[str, Any]) -> tuple[list[Any], Choice]:
        """Check feeds and choose the shape of the run, without touching the device."""
        tensors = self.description.inputs
        held = {tensors[index].name for index in self._held}
        check_names(self.description, feeds, held)
        arrays = [as_array(t, feeds[t.name]) if t.name in feeds else None for t in tensors]
        dims = [
            self._held[index] if array is None else array.shape
            for index, array in enumerate(arrays)
        ]
        return arrays, choose(self.description, dims)

    def _prepare(self, library: AclLibrary, feeds: Mapping[str, Any]) -> Choice:
        arrays, choice = self.check(feeds)
        for index, (slot, array) in enumerate(zip(self._buffers.inputs, arrays)):
            if array is not None:
                self._held.pop(index, None)
                slot.ensure(array.nbytes)
                to_device(library, slot, array)
        run_modes.set_shape(library, self.model_id, self._buffers, choice)
        return choice

    def _compute(self, library: AclLibrary, choice: Choice) -> list[Dims]:
        if self.mode != "dynamic":
            dims = run_modes.output_dims(library, self.model_id, self.description)
            stream = self._resources.stream or 0
            library.call(
                "aclmdlExecuteAsync",
                self.model_id,
                self._buffers.input_set,
                self._buffers.output_set,
                stream,
                where=self.path,
            )
            run_modes.wait(library, stream, self.timeout, self.path)
            return dims
        known = self._output_bytes.get(choice.key)
        dims = run_modes.execute_dynamic(
            library, self.model_id, self._buffers, known, self.timeout, self.path
        )
        sizes = [t.bytes_of(d) for t, d in zip(self.description.outputs, dims)]
        self._output_bytes[choice.key] = sizes
        return dims

    def default_dims(self, sizes: Mapping[str, int]) -> dict[str, Dims]:
        """Return legal dims of all inputs; see :func:`omfuse.acl.sizes.default_dims`."""
        return default_dims(self.description, sizes)

    # ---- outputs that stay on the device and become inputs (KV cache)
    def bind(self, output: str, input: str) -> None:  # noqa: A002
        """Let each run's ``output`` be the next run's ``input``, without leaving the device.

        Feed the input in the first run; after that it may be left out.  The output is copied back
        only when it is asked for by name.

        Raises:
            UsageError: ``unknown-output``, ``bad-feed``, ``bad-binding``.
        """
        (made,) = self._wanted([output])
        self._feedback[made] = check_binding(self.description, made, input, self._feedback)

    def forget(self) -> None:
        """Drop the values that bound inputs hold; the next run must feed them."""
        self._held.clear()

    def _feed_back(self, dims: Sequence[Dims]) -> None:
        for made, fed in self._feedback.items():
            position = next(i for i, t in enumerate(self.description.inputs) if t.index == fed)
            self._buffers.outputs[made].swap(self._buffers.inputs[position])
            self._held[position] = tuple(dims[made])

    # ---- many runs
    def map(self, many: Iterable[Mapping[str, Any]], depth: int = 2) -> Iterator[dict[str, Any]]:
        """Run for each set of feeds, results in order.

        Copies and computation overlap in ``depth`` sets of buffers; models whose output sizes
        are not known before the run, or that share their work memory, go one by one.

        Raises:
            UsageError, AclError: as :meth:`run`; runs after a failed one are not returned.
        """
        shared = self._resources.workspace is not None
        if self.mode == "dynamic" or self._feedback or shared:
            for feeds in many:
                yield self.run(feeds)
            return
        from omfuse.acl.pipeline import Pipeline

        with Pipeline(self, depth) as pipeline:
            yield from pipeline.map(many)

    # ---- end
    def close(self) -> None:
        """Give everything back to the device; safe to call twice, in any state."""
        self._resources.close()
        self._finalizer.detach()

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of device memory."""
        from omfuse.acl.memory import memory_info

        with self.ready() as library:
            return memory_info(library)

    def __enter__(self) -> DeviceSession:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
