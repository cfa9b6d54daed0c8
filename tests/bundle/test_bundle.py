"""A bundle is carried to a clean folder and run there on the simulated device."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from omfuse.bundle import build
from omfuse.bundle.answer import explained
from omfuse.bundle.board import check, run
from omfuse.cli.app import app
from omfuse.errors import ModelError, ToolchainError, UsageError

SAMPLE = Path(__file__).parents[2] / "examples" / "sample.onnx"
SHAPES = ("batch=2", "source=9", "target=5")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    made = make(folder)
    assert made["attention"] == 6
    return folder


def make(output: Path, *more: str) -> dict[str, object]:
    shapes = [word for shape in SHAPES for word in ("--shape", shape)]
    words = ["bundle", str(SAMPLE), "-o", str(output), "--soc", "Ascend310P3", *shapes]
    done = CliRunner().invoke(
        app, [*words, "--no-wheels", "--seed", "0", "--json", *more], standalone_mode=False
    )
    if done.exception is not None:
        raise done.exception
    document = json.loads(done.stdout)
    assert document["schema"] == "omfuse.bundle/1"
    return dict(document)


def carried(bundle: Path, place: Path) -> Path:
    copy = place / "carried"
    shutil.copytree(bundle, copy)
    return copy


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable}
    command = ["sh", str(folder / "run.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_it_runs_in_a_clean_folder(bundle: Path, tmp_path: Path) -> None:
    folder = carried(bundle, tmp_path)
    done = start(folder, "--device", "sim")
    assert done.returncode == 0, done.stderr
    assert "pass (simulated)" in done.stdout
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["simulated"] is True
    assert {output["name"] for output in result["targets"][0]["outputs"]} == {
        "next_token", "summary",
    }  # fmt: skip
    again = start(folder, "--device", "sim")  # results of a run are no part of the manifest
    assert again.returncode == 0


def test_without_cann_it_says_so(bundle: Path, tmp_path: Path) -> None:
    folder = carried(bundle, tmp_path)
    done = start(folder)
    assert done.returncode == 4
    assert "error[no-atc]" in done.stderr
    assert "fix:" in done.stderr
    assert not (folder / "out").exists()


def test_a_changed_file_is_found(bundle: Path, tmp_path: Path) -> None:
    folder = carried(bundle, tmp_path)
    check(folder)
    target = next((folder / "atc").rglob("model.onnx"))
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    with pytest.raises(ModelError, match="missing or was changed"):
        check(folder)
    assert start(folder, "--device", "sim").returncode == 2


def reseal(folder: Path) -> None:
    (folder / "MANIFEST.sha256").unlink()
    build._manifest(folder)


def test_a_wrong_result_fails(bundle: Path, tmp_path: Path) -> None:
    """The outputs of the original, and of its emulated run, moved by two percent."""
    folder = carried(bundle, tmp_path)
    for what in ("golden", "emulated"):
        path = folder / "samples" / f"seed0.{what}.npz"
        with np.load(path) as saved:
            arrays = dict(saved)
        for name in arrays:
            if name != "names":
                arrays[name] = arrays[name] * np.float32(1.02)
        np.savez(path, **arrays)
    reseal(folder)
    assert run(folder, None, "sim", 0, tmp_path / "out", None) == 1
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"] == "fail"


def test_another_chip_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not for Ascend910B3"):
        run(bundle, "Ascend910B3", "sim", 0, tmp_path, None)


def test_a_failing_operator_build_is_reported(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atc = tmp_path / "bin" / "atc"
    atc.parent.mkdir()
    atc.write_text("#!/bin/sh\nexit 1\n")
    atc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{atc.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    with pytest.raises(ToolchainError, match="no CANN toolkit") as caught:
        run(bundle, None, "ascend", 0, tmp_path / "out", None)
    assert caught.value.code == "op-build-failed"


@pytest.mark.parametrize("era", ["7", "8", "9"])
def test_a_failing_atc_is_explained_on_the_board(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    monkeypatch.setenv("OMFUSE_SIM_ATC_FAULT", "E13010:No parser for Op [/a]")
    monkeypatch.setenv("OMFUSE_SIM_ATC_ERA", era)
    with pytest.raises(ToolchainError) as caught:
        run(bundle, None, "sim", 0, tmp_path / "out", None)
    code = "E13010" if era == "9" else "E19010"
    assert f"no parser for an operator (ATC {code}: No parser for Op [/a])" in caught.value.message
    assert "cause:" in (caught.value.hint or "")
    assert "ATC run failed" in Path(caught.value.where or "").read_text("utf-8")


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        ("E19999: Inner Error!\nE19999  x\nE10001: [PID: 1] 2026-01-02-03:04:05.6 bad\n",
         "(ATC E10001: bad)", "correct the flag"),
        ("...E50012: bad pads\n", "refused its parameters", "ATC's own text"),
        ("E77777: odd\n", "ATC E77777: odd", "log=debug"),
        ("atc.bin: cannot open liba.so\n", "cannot open liba.so", "log=debug"),
        ("", "it printed nothing", "log=debug"),
        ("W11001: slow\n", "gave no reason", "log=debug"),
    ],
)  # fmt: skip
def test_any_answer_of_atc(bundle: Path, said: str, words: str, hint: str) -> None:
    error = explained(said, bundle, bundle / "x.log")
    assert words in error.message
    assert hint in (error.hint or "")


def test_success_needs_its_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMFUSE_SIM_ATC_FAULT", "silent")
    with pytest.raises(ToolchainError, match="gave no reason"):
        run(bundle, None, "sim", 0, tmp_path / "out", None)


def test_a_path_that_atc_refuses_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="E10001"):
        run(bundle, None, "sim", 0, tmp_path / "my out", None)


def test_files_of_flags_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "switch.cfg").write_text("PassA:off\n", "utf-8")
    text = '[compile]\nset = { fusion_switch_file = "switch.cfg" }\n'
    (tmp_path / "omfuse.toml").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "made")
    (target,) = json.loads((tmp_path / "made" / "bundle.json").read_text("utf-8"))["targets"]
    (word,) = [w for w in target["arguments"] if "fusion_switch_file" in w]
    name = word.partition("{folder}/")[2]
    copied = tmp_path / "made" / target["folder"] / name
    assert copied.read_text("utf-8") == "PassA:off\n"
    assert not any(str(tmp_path) in w for w in target["arguments"])


def test_the_manifest_lists_every_file(bundle: Path) -> None:
    lines = dict(
        reversed(line.split("  ", 1))
        for line in (bundle / "MANIFEST.sha256").read_text().splitlines()
    )
    files = {str(p.relative_to(bundle)): p for p in bundle.rglob("*") if p.is_file()}
    assert set(lines) == set(files) - {"MANIFEST.sha256"}
    for name, path in files.items():
        if name != "MANIFEST.sha256":
            assert lines[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    everything = "".join(p.read_text(errors="replace") for p in bundle.rglob("*.json"))
    assert str(bundle) not in everything  # it must work wherever it is carried to
    for part in ("op_kernel", "op_host", "framework"):
        assert any((bundle / "op" / "flash_attention" / part).iterdir())


def test_the_carried_part_of_omfuse_stands_alone(bundle: Path) -> None:
    """It is old Python, and imports numpy, the standard library and itself."""
    lib = bundle / "lib"
    for path in lib.rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('onnx', 'onnxruntime', 'typer', 'rich', 'google'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import omfuse.bundle.board, omfuse\n"
        "assert omfuse.__file__.startswith(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-S", "-c", probe_with_numpy(probe), str(lib)], check=True)


def probe_with_numpy(probe: str) -> str:
    """Without site-packages only numpy is put on the path, as on a board."""
    numpy = Path(np.__file__).parent.parent
    link = "import tempfile, os; d = tempfile.mkdtemp(); "
    link += f"[os.symlink(os.path.join({str(numpy)!r}, n), os.path.join(d, n)) "
    link += f"for n in os.listdir({str(numpy)!r}) if n.split('.')[0] in ('numpy', 'numpy_libs')]; "
    return link + "import sys; sys.path.insert(0, d)\n" + probe


def test_an_archive_is_reproducible(tmp_path: Path) -> None:
    names = [tmp_path / "one" / "b.tar.gz", tmp_path / "two" / "b.tar.gz"]
    for name in names:
        make(name)
    assert names[0].read_bytes() == names[1].read_bytes()
    with tarfile.open(names[0]) as archive:
        members = archive.getnames()
        assert "b/run.sh" in members
        assert archive.getmember("b/run.sh").mode & 0o100
    assert [path.name for path in names[0].parent.iterdir()] == ["b.tar.gz"]


def test_an_existing_folder_is_kept(bundle: Path) -> None:
    before = (bundle / "MANIFEST.sha256").read_bytes()
    with pytest.raises(UsageError, match="there already"):
        make(bundle)
    assert (bundle / "MANIFEST.sha256").read_bytes() == before


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "_sources", fail)
    with pytest.raises(Exception, match="No space left"):
        make(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_missing_wheels_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(ToolchainError, match="cannot be downloaded") as caught:
        build._wheels(tmp_path / "wheels", ("3.10",))
    assert "--no-wheels" in (caught.value.hint or "")
