"""What is said of shapes and contents is what onnxruntime computes, for more than one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from tests.graph.observed import contradictions, facts_of, observe

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"
BINDINGS = ({"B": 2, "S": 3, "H": 8, "W": 12}, {"B": 3, "S": 5, "H": 12, "W": 16})

# node, inputs, the shape that must be known
SHAPES = [
    ("y = GlobalAveragePool(x)", "float[B,4,S] x", "B,4,1"),
    ("y = GlobalMaxPool(x)", "float[B,4,H,W] x", "B,4,1,1"),
    ("y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x)", "float[B,4,8,12] x", "B,4,4,6"),
    ("y = MaxPool <kernel_shape=[3], pads=[1,1]> (x)", "float[B,4,S] x", "B,4,S"),
    ("y = AveragePool <kernel_shape=[3], strides=[2], auto_pad=\"SAME_UPPER\"> (x)",
     "float[B,4,9] x", "B,4,5"),
    ("y = AveragePool <kernel_shape=[3], auto_pad=\"VALID\"> (x)", "float[B,4,H] x", "B,4,H-2"),
    ("y = Conv <kernel_shape=[3], dilations=[2], pads=[2,2]> (x, w)",
     "float[B,2,S] x, float[4,2,3] w", "B,4,S"),
    ("y = Conv <auto_pad=\"SAME_UPPER\"> (x, w)", "float[B,2,S] x, float[4,2,3] w", "B,4,S"),
    ("y = ConvTranspose <strides=[2], output_padding=[1], pads=[1,1], group=2> (x, w)",
     "float[B,4,S] x, float[4,3,3] w", "B,6,2*S"),
    ("y = DepthToSpace <blocksize=2> (x)", "float[B,8,H,W] x", "B,2,2*H,2*W"),
    ("y = SpaceToDepth <blocksize=2> (x)", "float[B,2,4,6] x", "B,8,2,3"),
    ("s = Constant <value_floats=[1.0,1.0,2.0,2.0]> () y = Resize <mode=\"nearest\"> (x, , s)",
     "float[B,2,H,W] x", "B,2,2*H,2*W"),
    ("y = GridSample(x, g)", "float[B,2,4,5] x, float[B,H,W,2] g", "B,2,H,W"),
    ("y = ArgMax <axis=-1, keepdims=0> (x)", "float[B,S,5] x", "B,S"),
    ("y = ArgMin <axis=1> (x)", "float[B,S,5] x", "B,1,5"),
    ("k = Constant <value_ints=[2]> () y, i = TopK <axis=1> (x, k)", "float[B,S,5] x", "B,2,5"),
    ("d = Constant <value_int=7> () v = Constant <value_floats=[0.0,1.0]> () y = OneHot(x, d, v)",
     "int64[B,S] x", "B,S,7"),
    ("y, h, c = LSTM <hidden_size=3> (x, w, r)",
     "float[S,B,4] x, float[1,12,4] w, float[1,12,3] r", "S,1,B,3"),
    ("a, y = GRU <hidden_size=3, direction=\"bidirectional\"> (x, w, r)",
     "float[S,B,4] x, float[2,9,4] w, float[2,9,3] r", "2,B,3"),
    ("y = Einsum <equation=\"bsd,btd->bst\"> (x, z)", "float[B,S,4] x, float[B,H,4] z", "B,S,H"),
    ("y = Einsum <equation=\"...sd, ...td -> ...st\"> (x, z)", "float[2,B,S,4] x, float[2,B,H,4] z",
     "2,B,S,H"),
    ("y = Einsum <equation=\"td,bsd\"> (z, x)", "float[B,S,4] x, float[H,4] z", "B,S,H"),
    ("a, y = Split <axis=1, num_outputs=2> (x)", "float[B,6,S] x", "B,3,S"),
    ("y = Flatten <axis=2> (x)", "float[B,S,4,5] x", "B*S,20"),
    ("y, m, v = LayerNormalization (x, w)", "float[B,S,4] x, float[4] w", "B,S,4"),
    ("y = Mean(x, z, w)", "float[B,1,4] x, float[1,S,4] z, float[4] w", "B,S,4"),
    ("y = ReduceSumSquare <keepdims=0, axes=[1]> (x)", "float[B,S,4] x", "B,4"),
    ("y = Mish(x)", "float[B,S] x", "B,S"),
    ("y = Attention <q_num_heads=4, kv_num_heads=2> (x, k, v)",
     "float[B,S,12] x, float[B,H,6] k, float[B,H,10] v", "B,S,20"),
    # the end counted from the back by a size, by one, by more than there may be
    ("n = Shape <start=1, end=2> (x) m = Neg(n) e = Constant <value_ints=[9223372036854775807]> ()"
     " a = Constant <value_ints=[1]> () y = Slice(x, m, e, a)", "float[B,S,4] x", "B,S,4"),
    ("s = Constant <value_ints=[-1]> () e = Constant <value_ints=[9223372036854775807]> ()"
     " a = Constant <value_ints=[1]> () y = Slice(x, s, e, a)", "float[B,S,4] x", "B,1,4"),
    ("s = Constant <value_ints=[-4]> () e = Constant <value_ints=[9223372036854775807]> ()"
     " a = Constant <value_ints=[1]> () y = Slice(x, s, e, a)", "float[B,S,4] x", "B,min(S,4),4"),
    ("s = Constant <value_ints=[0]> () e = Constant <value_ints=[1]> ()"
     " a = Constant <value_ints=[1]> () y = Slice(x, s, e, a)", "float[B,S,4] x", "B,1,4"),
    ("n = Shape <start=1, end=2> (x) s = Constant <value_ints=[0]> ()"
     " a = Constant <value_ints=[0]> () y = Slice(z, s, n, a)", "float[B,S] x, float[1,4] z",
     "1,4"),
    ("n = Shape <start=1, end=2> (x) m = Neg(n) four = Constant <value_ints=[4]> ()"
     " more = Mod(m, four) none = Constant <value_ints=[0,0,0]> () p = Concat <axis=0> (none, more)"
     " y = Pad(x, p)", "float[B,S] x", "B,(-S%4)+S"),
    ("n = Shape <start=0, end=1> (x) m = Neg(n) s = Constant <value_ints=[0]> ()"
     " a = Constant <value_ints=[1]> () z = Concat <axis=1> (x, x, x) y = Slice(z, s, m, a)",
     "float[B,S,4] x", "B,3*S-B,4"),
]  # fmt: skip

# nodes whose result is shape arithmetic, the content that must be known; None: it must not be
CONTENTS = [
    ("a = Shape(x) b = Shape(z) y = Max(a, b, a)", "[B,S]"),
    ("a = Shape(x) one = Constant <value_ints=[1,9]> () two = Constant <value_ints=[7,2]> ()"
     " three = Constant <value_ints=[3,4]> () y = Max(one, two, three)", "[7,9]"),
    ("a = Shape(x) i = Constant <value_ints=[0,1]> () b = Gather(a, i) y = ReduceProd(b)",
     "[B*S]"),
    ("a = Shape(x) f = Cast<to=1>(a) h = Constant <value_floats=[0.5]> () y = Mul(f, h)", None),
    ("a = Shape(x) f = Cast<to=1>(a) h = Constant <value_floats=[2.0]> () y = Mul(f, h)",
     "[2*B,2*S]"),
    ("a = Shape(x) b = Constant <value_ints=[2,2]> () c = Mul(a, b) y = Mod(c, b)", "[0,0]"),
    ("a = Shape(x) b = Constant <value_ints=[4,4]> () n = Neg(a) y = Mod(n, b)",
     "[(-B%4),(-S%4)]"),
    ("a = Constant <value_ints=[-7,7,-6]> () b = Constant <value_ints=[2,-2,3]> () y = Div(a, b)",
     "[-3,-3,-2]"),
    ("a = Constant <value_ints=[-7,7]> () b = Constant <value_ints=[3,-3]> () y = Mod(a, b)",
     "[2,-2]"),
    ("a = Constant <value_ints=[-7,7]> () b = Constant <value_ints=[3,-3]> ()"
     " y = Mod<fmod=1>(a, b)", "[-1,1]"),
]  # fmt: skip


def parsed(body: str, inputs: str, opset: int = 23) -> onnx.ModelProto:
    text = (
        f"""<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (float y) {{ {body} }}"""
    )
    model = onnx.parser.parse_model(text)
    made = next(node for node in model.graph.node if "y" in node.output)
    integer = made.op_type in ("ArgMax", "ArgMin", "Div", "Max", "Mod", "ReduceProd")
    kind = model.graph.output[0].type.tensor_type
    kind.Clear()
    kind.elem_type = onnx.TensorProto.INT64 if integer else onnx.TensorProto.FLOAT
    return model


def feeds(model: onnx.ModelProto, binding: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or binding[d.dim_param] for d in kind.shape.dim]
        values = rng.uniform(0, 1, shape)
        made[value.name] = values.astype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return made


@pytest.mark.parametrize(("body", "inputs", "shape"), SHAPES, ids=lambda text: text[:40])
def test_a_shape_with_symbols_holds_for_every_size(body: str, inputs: str, shape: str) -> None:
    opset = 17 if "axes=[" in body else 23
    model = parsed(body, inputs, opset)
    known = facts_of(model).shape("y")
    assert known is not None
    assert ",".join(map(repr, known)) == shape
    for binding in BINDINGS:
        given = feeds(model, binding)
        assert not contradictions(model, given, observe(model, given))


@pytest.mark.parametrize(("body", "content"), CONTENTS, ids=lambda text: str(text)[:40])
def test_shape_arithmetic_is_exact_or_unknown(body: str, content: str | None) -> None:
    model = parsed(body, "float[B,S] x, float[B,S] z")
    known = facts_of(model).content("y")
    assert content == (None if known is None else repr(known.tolist()).replace(" ", ""))
    for binding in BINDINGS:
        given = feeds(model, binding)
        assert not contradictions(model, given, observe(model, given))


@pytest.mark.parametrize(("batch", "source", "target"), [(2, 9, 5), (3, 7, 11), (1, 1, 1)])
def test_every_value_of_the_sample(batch: int, source: int, target: int) -> None:
    model = onnx.load(SAMPLE)
    binding = {"batch": batch, "source": source, "target": target}
    given = feeds(model, binding)
    observed = observe(model, given)
    assert len(observed) > 500
    assert not contradictions(model, given, observed)


def test_symbols_of_an_earlier_inference_are_kept_apart() -> None:
    """A tool ran onnx's inference and saved it; the next run makes up the same names."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17, "other": 1]>
        g (float[B,S] x, int64[1] n) => (float y) <float[unk__0,S] u> {
          z = NonZero(x) t = Transpose(z) f = Cast<to=1>(t) u = other.Op(x) y = Add(x, u)
        }"""
    )
    facts = facts_of(model)
    assert facts.shape("z") is not None
    assert facts.shape("u") is not None
    assert repr(facts.shape("u")[0]) not in repr(facts.shape("z"))
    assert repr(facts.shape("u")[1]) == "S"


def test_sizes_that_a_product_forces_to_be_equal_are_one() -> None:
    """Queries of one input meet keys of another: their batches are equal, or nothing runs."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        g (float[B,4,S,8] x, float[E,4,T,8] z, float[E,M] m) => (float y) {
          xs = Shape<start=0, end=1>(x) zs = Shape<start=0, end=1>(z) h = Constant<value_ints=[4]>()
          last = Constant<value_ints=[-1,8]>()
          xb = Mul(xs, h) zb = Mul(zs, h)
          xt = Concat<axis=0>(xb, last) zt = Concat<axis=0>(zb, last)
          q = Reshape(x, xt) k = Reshape(z, zt) kt = Transpose<perm=[0,2,1]>(k) y = MatMul(q, kt)
        }"""
    )
    facts = facts_of(model)
    assert repr(facts.shape("kt")) == "(4*B, 8, T)"
    assert repr(facts.shape("m")) == "(B, M)"
    assert repr(facts.content("zt").tolist()) == "[4*B, -1, 8]"


def test_a_size_that_meets_a_weight_is_a_number() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        g (float[B,S,D] x, float[8,4] w) => (float y) { z = Relu(x) y = MatMul(z, w) }"""
    )
    assert repr(facts_of(model).shape("z")) == "(B, S, 8)"


def test_sizes_that_may_be_one_are_left_apart() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]>
        g (float[B,4,S] x, float[E,1,T] z) => (float y) { y = Add(z, x) }"""
    )
    facts = facts_of(model)
    assert repr(facts.shape("z")) == "(E, 1, T)"
    assert repr(facts.shape("y")) == "(B, 4, S)"  # the fuller tensor names the sum


def test_large_integers_are_cut_towards_zero() -> None:
    """More elements than shape arithmetic follows: folded as a constant."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 17]> g (float[1] x) => (int64[80] y)
        <int64 start = {-40}, int64 stop = {40}, int64 one = {1}, int64 three = {3}> {
          a = Range(start, stop, one) y = Div(a, three)
        }"""
    )
    given = {"x": np.zeros(1, np.float32)}
    assert facts_of(model).const("y") is not None
    assert not contradictions(model, given, observe(model, given))
