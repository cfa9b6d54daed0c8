"""The whole way on the simulated device: results, resuming, failures of one chip, the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from browser import CHROMIUM, picture_of
from onnx import numpy_helper
from typer.testing import CliRunner

from omfuse.cli.app import app
from omfuse.errors import ModelError, UsageError
from omfuse.pipeline import run_pipeline
from omfuse.pipeline.settings import Settings, read_settings

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"
SHAPES = ["batch=2", "source=9", "target=5"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Native libraries, built once for all tests."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("ascendc", "cpu", "emulator", "sim"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(autouse=True)
def private_cache(
    built: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for folder in built.iterdir():
        (cache / folder.name).symlink_to(folder)
    monkeypatch.setenv("OMFUSE_CACHE_DIR", str(cache))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


def settings(
    model: Path, folder: Path, socs: tuple[str, ...] = ("Ascend310P3",), **more: object
) -> Settings:
    given = {"soc": list(socs), "shape": SHAPES, "cache": True}
    return read_settings(
        model, folder, "sim", None, given, {"dry_run": False}, seeds=(0,), **more  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_chip_gets_an_om_that_computes_the_same(tmp_path: Path) -> None:
    result = run_pipeline(settings(SAMPLE, tmp_path, ("Ascend310P3", "Ascend910B3")))
    assert result.passed
    assert result.exit_code == 0
    assert [target.soc for target in result.targets] == ["Ascend310P3", "Ascend910B3"]
    for target in result.targets:
        assert target.compile is not None
        assert target.compile["attention"] == 6
        assert target.compile["simulated"] is True
        assert Path(target.compile["output"]).is_file()
    assert onnx.load(result.fused).opset_import[1].domain == "omfuse"


def test_what_has_not_changed_is_taken_over(tmp_path: Path) -> None:
    first = run_pipeline(settings(SAMPLE, tmp_path))
    assert first.reused == []
    again = run_pipeline(settings(SAMPLE, tmp_path))
    assert set(again.reused) == {
        "rewrite", "host", "compile Ascend310P3", "diff Ascend310P3",
    }  # fmt: skip
    assert again.host == first.host
    fresh = run_pipeline(settings(SAMPLE, tmp_path, resume=False))
    assert "rewrite" not in fresh.reused


def test_a_changed_weight_runs_everything_again(tmp_path: Path) -> None:
    model = onnx.load(SAMPLE)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    run_pipeline(settings(path, tmp_path / "out"))
    weight = next(t for t in model.graph.initializer if t.data_type == 1 and len(t.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, weight.name))
    onnx.save(model, path)
    again = run_pipeline(settings(path, tmp_path / "out"))
    assert again.reused == []
    assert again.passed


def test_a_damaged_result_is_made_again(tmp_path: Path) -> None:
    first = run_pipeline(settings(SAMPLE, tmp_path))
    whole = first.fused.read_bytes()
    first.fused.write_bytes(whole[:1000])
    (tmp_path / "state.json.bak").write_text("left over")
    again = run_pipeline(settings(SAMPLE, tmp_path))
    assert "rewrite" not in again.reused
    assert again.fused.read_bytes() == whole
    (tmp_path / "state.json").write_text('{"schema": "omf')
    assert run_pipeline(settings(SAMPLE, tmp_path)).passed


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_renders_the_page_at_1280(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    result = run_pipeline(settings(SAMPLE, tmp_path, ("Ascend310P3", "Ascend910B3")))
    assert result.page is not None
    image = picture_of(result.page, tmp_path, 3400)
    green = (image[..., 1] - image[..., 0] > 0.2) & (image[..., 1] - image[..., 2] > 0.1)
    assert green.sum() >= 6 * 14 * 14  # one box of the map a fused block


def test_each_chip_has_its_estimate(tmp_path: Path) -> None:
    result = run_pipeline(settings(SAMPLE, tmp_path, ("Ascend310P3", "Ascend910B3")))
    for target in result.targets:
        assert sum(row["blocks"] for row in target.estimate) == 6
        cases = {tuple(row["case"]): row["blocks"] for row in target.estimate}
        assert cases[(2, 4, 9, 9, 8)] == 2  # the encoder: batch, heads, source, source, depth
        assert all(0 < row["fused"] < 1 for row in target.estimate)
    one, other = (target.estimate[0]["fused"] for target in result.targets)
    assert one != other
    assert "Estimated time of one block" in (tmp_path / "report" / "index.html").read_text()


def test_one_chip_that_fails_does_not_stop_the_other(tmp_path: Path) -> None:
    """The 910A has no bf16, so this precision cannot be compiled for it."""
    given = {"soc": ["Ascend910A", "Ascend910B3"], "shape": SHAPES, "precision": "bf16"}
    wanted = read_settings(SAMPLE, tmp_path, "sim", None, given, {"dry_run": False}, seeds=(0,))
    result = run_pipeline(wanted)
    bad, good = result.targets
    assert bad.error is not None
    assert bad.compile is None
    assert good.passed
    assert result.exit_code == bad.exit_code != 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert bad.error["code"] in page


def test_a_wrong_rewrite_fails_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import omfuse.api

    honest = omfuse.api.rewrite

    def wrong(*arguments: object, **options: object) -> object:
        result = honest(*arguments, **options)  # type: ignore[arg-type]
        node = next(n for n in result.model.graph.node if n.op_type == "FlashAttention")
        next(a for a in node.attribute if a.name == "scale").f *= 1.02
        return result

    monkeypatch.setattr("omfuse.rewrite", wrong)
    result = run_pipeline(settings(SAMPLE, tmp_path))
    assert not result.passed
    assert result.exit_code == 1
    assert result.host["culprits"]


def test_require(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, _arguments(tmp_path, "--require", "all")).exit_code == 0
    few = CliRunner().invoke(app, _arguments(tmp_path, "--require", "7"), standalone_mode=False)
    assert few.return_value == 1


def _arguments(folder: Path, *more: str) -> list[str]:
    shapes = [text for shape in SHAPES for text in ("--shape", shape)]
    return [
        "pipeline", str(SAMPLE), "-o", str(folder), "--soc", "Ascend310P3", "--device", "sim",
        "--seed", "0", *shapes, *more,
    ]  # fmt: skip


def test_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, _arguments(tmp_path, "--json"))
    document = json.loads(done.stdout)
    assert document["schema"] == "omfuse.pipeline/1"
    assert document["verdict"] == "pass"
    assert document["simulated"] is True
    assert document["rewrite"]["fused"] == 6


def test_the_project_file_says_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "omfuse.toml").write_text(
        f"""
        [pipeline]
        model = "{SAMPLE}"
        output = "made"
        device = "sim"
        require = 6
        [compile]
        soc = "Ascend310P3"
        shape = {{ batch = 2, source = 9, target = 5 }}
        [diff]
        seeds = [5]
        budget = 2.0
        """
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["pipeline", "--json"])
    document = json.loads(done.stdout)
    assert document["targets"][0]["soc"] == "Ascend310P3"
    assert document["host"]["seeds"] == [5]
    assert (tmp_path / "made" / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pipeline]\nmodle = 'x'", "did you mean model"),
        ("[diff]\nseeds = 3", "diff.seeds must be list"),
        ("[diff]\nprecision = 'fp8'", "one of auto"),
        ("pipeline = 3", "must be a table"),
        ("[pipeline\n", "cannot read the file"),
    ],
)
def test_a_broken_project_file_is_explained(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "omfuse.toml"
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_settings(SAMPLE, None, "sim", None, {}, {}, config)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_broken_model_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(SAMPLE.read_bytes()[:5000])
    with pytest.raises(ModelError):
        run_pipeline(settings(path, tmp_path / "out"))
    assert not (tmp_path / "out" / "state.json").exists()


def test_the_page_is_one_file_and_tells_what_is_simulated(tmp_path: Path) -> None:
    result = run_pipeline(settings(SAMPLE, tmp_path))
    assert result.page is not None
    page = result.page.read_text()
    assert not re.search(r"(src|href)='(?!data:|[a-z0-9]+\.html)", page)
    assert "<script" not in page
    assert "Simulated" in page
    assert page.count("<rect class='fused'") == 6
    assert page.count("<rect class='not-attention'") == 2
    numbers = np.array([float(o["ratio"]) for o in result.host["outputs"]])
    assert (numbers < 1).all()
