"""The commands rewrite, explain and inspect: text, JSON and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_text import build

from omfuse.cli.app import run

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"


def invoke(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def test_rewrite_with_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fused.onnx"
    code, text, _ = invoke(capsys, "rewrite", SAMPLE, "-o", out, "--verify", "--json")
    document = json.loads(text)
    assert code == 0
    assert document["schema"] == "omfuse.rewrite/1"
    assert (document["fused"], document["declined"]) == (6, 0)
    assert document["verify"]["verdict"] == "pass"
    assert document["nodes_after"] < document["nodes_before"]
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("FlashAttention") == 6
    assert {s["status"] for s in document["softmaxes"]} == {"fused", "not-attention"}


@pytest.mark.parametrize(("require", "code"), [("6", 0), ("7", 1), ("all", 0), ("x", 2)])
def test_require(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], require: str, code: int
) -> None:
    assert invoke(capsys, "rewrite", SAMPLE, "--dry-run", "--require", require)[0] == code
    assert list(tmp_path.iterdir()) == []


def test_no_attention_is_not_an_error_unless_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(build("y = Relu(q)"), model)
    code, text, _ = invoke(capsys, "rewrite", model, "-o", tmp_path / "o.onnx")
    assert (code, "no attention found" in text) == (0, True)
    assert invoke(capsys, "rewrite", model, "--dry-run", "--require", "all")[0] == 1


def test_errors_have_a_code_a_place_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, error = invoke(capsys, "rewrite", tmp_path / "no.onnx", "-o", tmp_path / "o.onnx")
    assert (code, text) == (2, "")
    assert "error[model-missing]" in error
    assert "no.onnx" in error
    assert invoke(capsys, "rewrite", SAMPLE)[0] == 2


def test_only_fuses_the_named_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/encoder.1/attention/Softmax"
    _, text, _ = invoke(capsys, "rewrite", SAMPLE, "--dry-run", "--json", "--only", name)
    assert [s["node"] for s in json.loads(text)["softmaxes"]] == [name]


def test_a_user_rule_makes_an_unknown_operator_transparent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = """kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt)
        z = com.microsoft.Acme<gain=0.5>(s)
        p = Softmax<axis=-1>(z) y = MatMul(p, v)"""
    model = tmp_path / "m.onnx"
    built = build(body)
    onnx.save(built, model)
    rule = tmp_path / "my_rules.py"
    rule.write_text(
        "from omfuse import lift\n"
        '@lift("com.microsoft::Acme")\n'
        "def acme(step):\n"
        '    yield step.scaled(0, step.attr("gain"))\n'
    )
    assert json.loads(invoke(capsys, "rewrite", model, "--dry-run", "--json")[1])["fused"] == 0
    code, text, _ = invoke(capsys, "rewrite", model, "--dry-run", "--json", "--patterns", rule)
    assert code == 0
    assert "0.5*Q" in json.loads(text)["softmaxes"][0]["normal_form"]
    rule.write_text("raise ValueError('no')\n")
    (tmp_path / "bad.py").write_text("raise ValueError('no')\n")
    code, _, error = invoke(
        capsys, "rewrite", model, "--dry-run", "--patterns", tmp_path / "bad.py"
    )
    assert (code, "patterns-unreadable" in error) == (2, True)


def test_explain_prints_the_normal_form_and_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, text, _ = invoke(capsys, "explain", SAMPLE, "/encoder.0/attention/Softmax")
    assert "softmax_k(0.353553*Q[b,h,q,d]" in text
    _, text, _ = invoke(capsys, "explain", SAMPLE, "--missed")
    assert "weights-mask" in text
    assert "encoder.0" not in text
    assert invoke(capsys, "explain", SAMPLE, "nowhere")[0] == 2


def test_inspect_lists_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = invoke(capsys, "inspect", SAMPLE, "--json")
    found = json.loads(text)
    assert found["schema"] == "omfuse.inspect/1"
    assert len(found["attention"]) == 6
    assert {(b["heads"], b["kv_heads"]) for b in found["attention"]} == {(4, 4), (4, 2)}
    _, text, _ = invoke(capsys, "inspect", SAMPLE)
    assert "[batch, source, 4, 8]" in text


def test_help_loads_no_heavy_package() -> None:
    script = (
        "import sys\n"
        "from omfuse.cli.app import run\n"
        "try: run(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'onnx_graphsurgeon'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rewrite" in done.stdout


def test_a_model_and_weights_that_are_links_as_in_a_hub_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both point into one folder of blobs, as huggingface_hub arranges what it downloads."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(
        onnx.load(SAMPLE),
        blobs / "aaaa",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=100,
    )
    (blobs / "model.onnx_data").rename(blobs / "bbbb")
    (snapshot / "model.onnx").symlink_to("../../../blobs/aaaa")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/bbbb")
    source, out = snapshot / "model.onnx", tmp_path / "out" / "fused.onnx"
    for _ in range(2):  # what the first run has copied is no obstacle to the second
        code, text, _ = invoke(capsys, "rewrite", source, "-o", out, "--verify", "--json")
        assert code == 0
        assert json.loads(text)["verify"]["verdict"] == "pass"
    (tmp_path / "elsewhere").write_bytes((blobs / "bbbb").read_bytes())
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to(tmp_path / "elsewhere")
    code, _, error = invoke(capsys, "rewrite", source, "-o", out)
    assert code == 2
    assert "external-data-outside" in error
