"""The two contractions: MatMul, Gemm, FusedMatMul and Einsum, written as index equations."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

from omfuse.graph.einsum import spelled
from omfuse.match.rules import ScoresStep, Step, WeightsStep, lift


def matmul_equation(
    rank_a: int, rank_b: int, swap_a: bool, swap_b: bool, row_first: tuple[bool, bool]
) -> tuple[str, str, str]:
    """Return the index labels of a batched matrix product with numpy broadcasting.

    ``row_first`` says of each side whether the rows of its matrices stand before the batch.
    """
    batch = string.ascii_lowercase[: max(rank_a, rank_b) - 2]
    sides = []
    for rank, matrix, first in (
        (rank_a, "zx" if swap_a else "xz", row_first[0]),
        (rank_b, "yz" if swap_b else "zy", row_first[1]),
    ):
        own = batch[len(batch) - (rank - 2) :]
        sides.append(matrix[0] + own + matrix[1] if first else own + matrix)
    return sides[0], sides[1], batch + "xy"


def _product(
    step: Step,
    swap_a: bool,
    swap_b: bool,
    factor: float,
    row_first: tuple[bool, bool] = (False, False),
) -> Iterator[Any]:
    rank_a, rank_b = len(step.shape(0)), len(step.shape(1))
    if min(rank_a, rank_b) < 2:
        raise step.decline("contraction", "a product with a vector", attention=False)
    a, b, out = matmul_equation(rank_a, rank_b, swap_a, swap_b, row_first)
    assert isinstance(step, (ScoresStep, WeightsStep))
    yield step.contracted(a, b, out, factor)


@lift("MatMul")
@lift("MatMul", side="weights")
def matmul(step: Step) -> Iterator[Any]:
    """Read a matrix product as a contraction.

    Before::

        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        s = MatMul(q, kt)
        p = Softmax<axis=-1>(s)
        y = MatMul(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,d,k]).V[b,h,k,e] -> out[b,h,q,e]
    """
    yield from _product(step, False, False, 1.0)


@lift("com.microsoft::FusedMatMul")
@lift("com.microsoft::FusedMatMul", side="weights")
def fused_matmul(step: Step) -> Iterator[Any]:
    """Read onnxruntime's product with a factor and transposes, also of the batch.

    Before::

        s = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(q, k)
        p = Softmax<axis=-1>(s)
        y = MatMul(p, v)

    After::

        softmax_k(0.5*Q[b,h,q,d].K[b,h,k,d]).V[b,h,k,e] -> out[b,h,q,e]
    """
    swap_a, swap_b = bool(step.attr("transA", 0)), bool(step.attr("transB", 0))
    row_first = bool(step.attr("transBatchA", 0)), bool(step.attr("transBatchB", 0))
    yield from _product(step, swap_a, swap_b, float(step.attr("alpha", 1.0)), row_first)


@lift("Gemm")
@lift("Gemm", side="weights")
def gemm(step: Step) -> Iterator[Any]:
    """Read a 2-D product without addend as a contraction with factor ``alpha``.

    Before::

        float[5,4] q, float[7,4] k, float[7,6] v
        s = Gemm<transB=1, alpha=0.5>(q, k)
        p = Softmax<axis=-1>(s)
        y = MatMul(p, v)

    After::

        softmax_k(0.5*Q[q,d].K[k,d]).V[k,e] -> out[q,e]
    """
    beta = float(step.attr("beta", 1.0))
    swap_a, swap_b = bool(step.attr("transA", 0)), bool(step.attr("transB", 0))
    if step.has(2) and step.scalar(2) != 0.0 and beta != 0.0:
        raise step.decline("contraction", "Gemm adds a third operand", attention=False)
    yield from _product(step, swap_a, swap_b, float(step.attr("alpha", 1.0)))


@lift("Einsum")
@lift("Einsum", side="weights")
def einsum(step: Step) -> Iterator[Any]:
    """Read a two-operand Einsum as a contraction.

    Before::

        s = Einsum<equation="bhqd,bhkd->bhqk">(q, k)
        p = Softmax<axis=-1>(s)
        y = Einsum<equation="bhqk,bhke->bqhe">(p, v)

    After::

        softmax_k(1*Q[b,h,q,d].K[b,h,k,d]).V[b,h,k,e] -> out[b,q,h,e]
    """
    equation = str(step.attr("equation"))
    if len(step.node.inputs) != 2:
        raise step.decline("contraction", f"Einsum {equation} is not a product of two operands")
    try:
        (a, b), out = spelled(equation, [len(step.shape(i)) for i in (0, 1)])
    except ValueError as error:
        raise step.decline("contraction", f"Einsum {error}") from None
    assert isinstance(step, (ScoresStep, WeightsStep))
    yield step.contracted(a, b, out)
