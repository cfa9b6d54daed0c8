"""TASK_INFO: what the device does, one task after another, and which operator each serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from omfuse.atc.om import wire
from omfuse.atc.om.wire import Budget, fields, text

_KERNEL, _WITH_HANDLE = 20, 40
# Other members that name their operator -> the field that does.
_OP_INDEX = {21: 4, 25: 8, 26: 1, 31: 6, 32: 1, 33: 1, 37: 1, 38: 1, 39: 1, 41: 1}
# rtModelTaskType_t in its order.
TYPES = (
    "KERNEL", "EVENT_RECORD", "EVENT_WAIT", "FUSION_START", "FUSION_END", "KERNEL_EX", "HCCL",
    "STREAM_SWITCH", "STREAM_ACTIVE", "LABEL_SET", "LABEL_SWITCH", "LABEL_GOTO", "PROFILER_TRACE",
    "MEMCPY_ASYNC", "NOTIFY_RECORD", "NOTIFY_WAIT", "REDUCE_ASYNC", "RDMA_SEND", "EVENT_RESET",
    "MODEL_END_GRAPH", "STREAM_SWITCH_N", "RDMA_DB_SEND", "MEMCPY_ADDR_ASYNC",
    "STREAM_LABEL_SWITCH_BY_INDEX", "STREAM_LABEL_GOTO", "MODEL_EXIT", "ALL_KERNEL",
    "PROFILER_TRACE_EX", "FFTS_TASK", "FFTS_PLUS_TASK", "DSA_TASK", "CMO", "BARRIER",
    "NPU_GET_FLOAT_STATUS", "NPU_CLEAR_FLOAT_STATUS", "DVPP", "NPU_GET_DEBUG_FLOAT_STATUS",
    "NPU_CLEAR_DEBUG_FLOAT_STATUS", "CMO_ADDR", "VECTOR_KERNEL", "VECTOR_ALL_KERNEL", "UPDATE",
    "NOP", "PREPROCESS_KERNEL", "SUPER_KERNEL", "MEM_EVENT_RECORD", "MEM_EVENT_WAIT",
    "FUSION_KERNEL",
)  # fmt: skip
KERNEL, ALL_KERNEL = TYPES.index("KERNEL"), TYPES.index("ALL_KERNEL")
END_GRAPH = TYPES.index("MODEL_END_GRAPH")


@dataclass(frozen=True)
class Task:
    """One task; ``op_index`` is the id of its operator, -1 when it has none."""

    type: int
    op_index: int = -1
    kernel: str = ""
    block_dim: int = 0
    stream: int = 0
    origin: tuple[int, ...] = ()

    @property
    def type_name(self) -> str:
        """Name of the type, its number when unknown."""
        return TYPES[self.type] if self.type < len(TYPES) else f"type {self.type}"

    def to_bytes(self, index: int) -> bytes:
        """Return the message; a kernel task carries its kernel."""
        out = wire.put_int(1, index) + wire.put_int(2, self.type) + wire.put_int(10, self.stream)
        if self.op_index < 0:
            return out
        context = (
            wire.put_int(1, 11) + wire.put_int(4, self.op_index) + wire.put_ints(8, self.origin)
        )
        kernel = (
            wire.put_bytes(1, context)
            + wire.put_text(10, self.kernel)
            + wire.put_int(11, self.block_dim)
            + wire.put_text(17, self.kernel)
        )
        return out + wire.put_bytes(_KERNEL, kernel)


@dataclass
class TaskList:
    """All tasks with the sizes that the model asks for."""

    tasks: list[Task] = field(default_factory=list)
    version: str = ""
    memory_size: int = 0
    weight_size: int = 0
    streams: int = 0
    events: int = 0

    def to_bytes(self) -> bytes:
        """Return the partition."""
        return b"".join(
            (
                wire.put_text(1, self.version),
                *(wire.put_bytes(10, task.to_bytes(i)) for i, task in enumerate(self.tasks)),
                wire.put_int(11, self.memory_size),
                wire.put_int(12, self.streams),
                wire.put_int(13, self.events),
                wire.put_int(14, self.weight_size),
            )
        )

    def by_type(self) -> dict[str, int]:
        """Count the tasks of each type."""
        return dict(Counter(task.type_name for task in self.tasks).most_common())


def read_tasks(data: memoryview, budget: Budget) -> TaskList:
    """Read the partition.

    Raises:
        WireError: the bytes are no task list.
    """
    found = TaskList()
    numbers = {11: "memory_size", 12: "streams", 13: "events", 14: "weight_size"}
    for number, _, value, raw in fields(data, budget):
        if number == 1:
            found.version = text(raw)
        elif number == 10:
            found.tasks.append(_read_task(raw, budget))
        elif number in numbers:
            setattr(found, numbers[number], value)
    return found


def _read_task(data: memoryview, budget: Budget) -> Task:
    kind = stream = block_dim = 0
    op_index, kernel = -1, ""
    origin: tuple[int, ...] = ()
    for number, _, value, raw in fields(data, budget):
        if number == 2:
            kind = value
        elif number == 10:
            stream = value
        elif not raw:
            continue  # members that are not used may stand there empty
        elif number in (_KERNEL, _WITH_HANDLE):
            read = _read_kernel(raw, number, budget)
            if read[0] or op_index < 0:
                op_index, kernel, block_dim, origin = read
        elif number in _OP_INDEX:
            found = [v for n, _, v, _ in fields(raw, budget) if n == _OP_INDEX[number]]
            op_index = found[-1] if found else 0
    return Task(kind, op_index, kernel, block_dim, stream, origin)


def _read_kernel(
    data: memoryview, form: int, budget: Budget
) -> tuple[int, str, int, tuple[int, ...]]:
    block_at = 11 if form == _KERNEL else 12
    op_index = block_dim = 0
    stub = name = ""
    origin: list[int] = []
    for number, _, value, raw in fields(data, budget):
        if number == 1:
            for inner, kind, inner_value, packed in fields(raw, budget):
                if inner == 4:
                    op_index = inner_value
                elif inner == 8:
                    origin += wire.integers(kind, inner_value, packed, budget)
        elif number == block_at:
            block_dim = value
        elif number == 10 and form == _KERNEL:
            stub = text(raw)
        elif number in (16, 17):
            name = text(raw) or name
    return op_index, name or stub, block_dim, tuple(origin)
