"""Files made with the writer, in many forms."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from omfuse.atc.om import layout
from omfuse.atc.om.inout import InOut, TensorInfo
from omfuse.atc.om.kernels import write_kernels
from omfuse.atc.om.layout import Header
from omfuse.atc.om.model_def import GraphDef, ModelDef, OpDef, TensorDesc
from omfuse.atc.om.tasks import Task, TaskList
from omfuse.atc.om.writer import Part, om_pieces
from omfuse.cli.app import run

ELF = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 0x1029)
FLASH = "/attn/Softmax/FlashAttention"


def attention_op(index: int, suffix: str = "", **attrs: Any) -> OpDef:
    desc = TensorDesc("", 2, (1, 2, 16, 8), "ND", 512, attrs={"origin_format": "ND"})
    return OpDef(
        f"{FLASH}{suffix}", "FlashAttention", ("q:0", "k:0", "v:0"), index,
        input_desc=(desc, desc, desc), output_desc=(desc,),
        attrs={
            "_kernelname": "te_flash__kernel", "_is_custom_op": True, "tvm_blockdim": 8,
            "_datadump_original_op_names": [FLASH], "scale_value": [0.25, 0.0], **attrs,
        },
    )  # fmt: skip


def model_def(ops: Sequence[OpDef] | None = None, more: Sequence[GraphDef] = ()) -> ModelDef:
    data = TensorDesc("", 1, (1, 2, 16, 8), "ND", 1024)
    plain = (
        OpDef("q", "Data", (), 0, input_desc=(data,), output_desc=(data,), attrs={"index": 0}),
        OpDef("w", "Const", (), 1, output_desc=(TensorDesc("", 1, (4,), "ND", 16, 16, 512),)),
    )
    tail = OpDef("out", "NetOutput", (f"{FLASH}:0",), 9, input_desc=(data,))
    graph = GraphDef("main", (*plain, *([attention_op(2)] if ops is None else ops), tail))
    attrs = {
        "soc_version": "Ascend310P3", "atc_version": "7.7.0.1.238", "framework_type": "Onnx",
        "atc_cmdline": "atc.bin --model=a.onnx --framework=5", "memory_size": 4096,
        "weight_size": 1024, "stream_num": 1, "event_num": 0, "om_info_list": [1024, 99, 0, 40, 0],
        "attr_model_out_nodes_name": [f"{FLASH}:0:y"],
    }  # fmt: skip
    return ModelDef("m", (graph, *more), 2, attrs)


def inout() -> InOut:
    return InOut(
        [TensorInfo("q", 0, 2, (1, 2, -1, 8), 0, ((1, 1), (2, 2), (1, 64), (8, 8)))],
        [TensorInfo(f"{FLASH}:0:y", 0, 2, (1, 2, -1, 8))],
    )


def parts(
    model: ModelDef | None = None,
    tasks: Sequence[Task] = (Task(0, 2, "te_flash__kernel", 8, 0, (2,)), Task(19)),
    kernels: Sequence[tuple[str, bytes]] = (("te_flash__kernel0", ELF),),
    described: InOut | None = None,
    compress: bool = True,
) -> list[Part]:
    found = [Part(layout.MODEL_DEF, [(model or model_def()).to_bytes(compress)])]
    found.append(Part(layout.WEIGHTS_DATA, [b"\0" * 512, b"w" * 512]))
    found.append(Part(layout.TBE_KERNELS, [write_kernels(kernels)]))
    found.append(Part(layout.TASK_INFO, [TaskList(list(tasks), "v", 4096, 1024, 1).to_bytes()]))
    if described is not None:
        found.insert(0, Part(layout.MODEL_INOUT_INFO, [described.to_bytes()]))
    return found


def whole(models: Sequence[Sequence[Part]] | None = None, **header: Any) -> bytes:
    chosen = [parts(described=inout())] if models is None else models
    return b"".join(om_pieces(Header(0, "m", **header), chosen))


def cli(*arguments: object) -> int:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def om(tmp_path: Path) -> Callable[..., Path]:
    def make(data: bytes | None = None, **more: Any) -> Path:
        path = tmp_path / "m.om"
        path.write_bytes(whole(**more) if data is None else data)
        return path

    return make
