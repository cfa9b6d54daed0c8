"""Where a compile reads and writes: outputs, files of flags, weights, run folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.atc.compiling import SHAPES, Maker
from tests.atc.conftest import GOOD, parse

import omfuse
from omfuse.atc import cache, runfolder
from omfuse.atc.form.masks import clamp_masks
from omfuse.errors import ModelError, NotAvailableError, OmfuseError, OutputError, UsageError


def runs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("length", [242, 252, 300])
def test_a_name_that_is_too_long(plain: Path, tmp_path: Path, length: int) -> None:
    with pytest.raises(UsageError) as caught:
        omfuse.compile(plain, tmp_path / f"{'o' * length}.om", "310P3", shape=SHAPES)
    assert caught.value.code == "bad-output"
    assert "E10021" in caught.value.message


def test_the_longest_name_goes(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    target = tmp_path / f"{'o' * 241}.om"
    omfuse.compile(plain, target, "310P3", shape=SHAPES, cann=fake_cann())
    assert target.exists()


@pytest.mark.parametrize("place", ["/proc/nowhere/m.om", "plain.onnx/m.om"])
def test_an_unwritable_place_is_found_before_atc(
    fake_cann: Maker, plain: Path, tmp_path: Path, place: str
) -> None:
    home = fake_cann(GOOD + f"open({str(tmp_path / 'started')!r}, 'w')\n")
    with pytest.raises(OutputError) as caught:
        omfuse.compile(plain, tmp_path / place, "310P3", shape=SHAPES, cann=home)
    assert caught.value.code == "cannot-write"
    assert "another -o" in (caught.value.hint or "")
    assert not (tmp_path / "started").exists()


def test_trying_a_place_leaves_nothing(tmp_path: Path) -> None:
    runfolder.check_writable(tmp_path / "a" / "b" / "m.om")
    assert list(tmp_path.iterdir()) == []


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_the_end_keeps_the_compiled_file(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, target = fake_cann(), tmp_path / "out" / "m.om"
    with monkeypatch.context() as patched:
        patched.setattr("omfuse.atc.runfolder.shutil.copyfile", full)
        with pytest.raises(OutputError) as caught:
            omfuse.compile(plain, target, "310P3", shape=SHAPES, cann=home)
    hint = caught.value.hint or ""
    assert Path(hint.rpartition("kept as ")[2]).read_bytes()[:4] == b"IMOD"
    assert not list(target.parent.glob("*"))
    assert omfuse.compile(plain, target, "310P3", shape=SHAPES, cann=home).output == target


def test_a_full_disk_below_the_run_folder_is_one_error(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omfuse.atc.prepare.save_form", full)
    with pytest.raises(OutputError) as caught:
        omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=fake_cann())
    assert caught.value.code == "no-work-space"
    assert "No space left" in caught.value.message
    assert "--log-dir" in (caught.value.hint or "")
    assert runs(tmp_path) == []


def test_what_stops_before_atc_leaves_no_run_folder(
    fake_cann: Maker, plain: Path, fused: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fake_cann()
    bad = [
        (UsageError, plain, {"settings": {"auto_tune_mode": "RL,GA"}, "cann": home}),
        (NotAvailableError, fused, {"cann": home}),
        (NotAvailableError, plain, {}),
    ]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    for kind, model, more in bad:
        with pytest.raises(kind):
            omfuse.compile(model, tmp_path / "m.om", "310P3", shape=SHAPES, **more)  # type: ignore[arg-type]
    assert runs(tmp_path) == []


# Files that flags name


def test_files_of_flags_are_found_from_the_users_folder(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ATC runs elsewhere, and refuses odd characters in the real path."""
    check = "for name in ('keep_dtype', 'fusion_switch_file'): assert open(flags[name]).read()\n"
    home = fake_cann(GOOD.replace("write_om(flags", f"{check}write_om(flags"))
    folder = tmp_path / "my files+"
    folder.mkdir()
    (folder / "keep.txt").write_text("attn\n", "utf-8")
    (tmp_path / "switch.cfg").write_text("PassA:off\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    settings = {"keep_dtype": "my files+/keep.txt", "fusion_switch_file": "switch.cfg"}
    result = omfuse.compile(
        plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=home, settings=settings
    )
    assert "my files+" not in result.command
    assert f"--fusion_switch_file={tmp_path / 'switch.cfg'}" in result.command


def test_a_report_of_another_name_is_read(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = (
        '{"op": [{"name": "n", "type": "ai.onnx::17::Softmax", "result": "failed",'
        ' "cause": [{"code": 1, "message": "The type is not supported."}]}]}'
    )
    body = f"""
import sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
open(flags["check_report"], "w").write({document!r})
print("E19010: No parser is registered for Op [n, optype [ai.onnx::17::Softmax]].")
sys.exit(255)
"""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OmfuseError) as caught:
        omfuse.compile(
            plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=fake_cann(body),
            settings={"check_report": "mine.json"},
        )  # fmt: skip
    (group,) = caught.value.unsupported  # type: ignore[attr-defined]
    assert group.nodes == ("n",)
    assert (tmp_path / "mine.json").exists()


# Weights outside the model

MASKED = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[2,4] x) => (float[2,4] y) { s = Add(x, m)
 y = Softmax(s) }
"""


def external(tmp_path: Path) -> Path:
    model = parse(MASKED)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.full((2, 4), -3e38, np.float32), "m")
    )
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda file: file.unlink(), "external-data-missing"),
        (lambda file: file.write_bytes(b"x"), "external-data-short"),
    ],
)
def test_weights_that_are_not_there(
    tmp_path: Path, change: Callable[[Path], object], code: str
) -> None:
    model = external(tmp_path)
    change(model.parent / "w.bin")
    with pytest.raises(ModelError) as caught:
        omfuse.compile(model, tmp_path / "m.om", "310P3")
    assert caught.value.code == code


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_weights_are_read(
    fake_cann: Maker, tmp_path: Path, link: Callable[[Path, Path], None]
) -> None:
    """Onnx refuses to read through links; model hubs and backups make them."""
    model = external(tmp_path)
    weights = model.parent / "w.bin"
    weights.rename(weights.with_name("real.bin"))
    link(weights.with_name("real.bin"), weights)
    result = omfuse.compile(model, tmp_path / "m.om", "310P3", cann=fake_cann())
    assert any("mask constant m" in note for note in result.notes)
    (clamped,) = clamp_masks(onnx.load(str(model), load_external_data=False), folder=model.parent)
    assert clamped.lowest < -1e38
    assert cache.file_digest(weights)


def test_a_hub_snapshot_compiles(fake_cann: Maker, tmp_path: Path) -> None:
    """Model and weights are links into a folder of blobs with other names."""
    model = external(tmp_path)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "m.onnx").symlink_to(model)
    weights = model.parent / "w.bin"
    weights.rename(weights.with_name("bbbb"))
    (snapshot / "w.bin").symlink_to(weights.with_name("bbbb"))
    result = omfuse.compile(snapshot / "m.onnx", tmp_path / "m.om", "310P3", cann=fake_cann())
    assert any("mask constant m" in note for note in result.notes)
