"""The function bodies of a model: which are there, and what an old runtime does with them.

onnxruntime before 1.27 knows local functions by name alone: of several overloads it runs the last
one for every call, without a word (seen in 1.20 to 1.26).  A file with several bodies therefore
ends with one that such a runtime cannot resolve, so that it refuses the file and says why; newer
runtimes never look at it.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import FunctionProto, helper

from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION, INPUTS, OP_TYPE

OVERLOADS_IR = 10  # overloads of functions entered the format with this IR version
OVERLOADS_SINCE = (1, 27)  # the first onnxruntime that tells overloads apart
_REFUSAL = "needs_onnxruntime_1_27"


def own_bodies(model: onnx.ModelProto) -> dict[str, FunctionProto]:
    """Return the bodies of FlashAttention by overload."""
    return {
        function.overload: function
        for function in model.functions
        if (function.domain, function.name) == (DOMAIN, OP_TYPE) and not _refuses(function)
    }


def attach(model: onnx.ModelProto, bodies: Iterable[FunctionProto]) -> None:
    """Add bodies that a model does not have yet, in place."""
    model.ir_version = max(model.ir_version, OVERLOADS_IR)
    drop_refusal(model)
    have = own_bodies(model)
    new = {body.overload: body for body in bodies if body.overload not in have}
    model.functions.extend(new.values())
    if len(have) + len(new) > 1 and "" not in {*have, *new}:
        model.functions.append(_refusal())


def drop_refusal(model: onnx.ModelProto) -> None:
    """Take out, in place, the body that is there for old runtimes only."""
    for function in [f for f in model.functions if _refuses(f)]:
        model.functions.remove(function)


def _refusal() -> FunctionProto:
    node = helper.make_node(_REFUSAL, ["query"], ["output"], domain=DOMAIN)
    imports = [helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_function(DOMAIN, OP_TYPE, list(INPUTS), ["output"], [node], imports)


def _refuses(function: FunctionProto) -> bool:
    return len(function.node) == 1 and function.node[0].op_type == _REFUSAL
