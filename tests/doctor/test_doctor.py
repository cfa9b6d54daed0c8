"""Each finding is brought about on purpose; a machine with nothing is not broken."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from omfuse.cli.app import app
from omfuse.doctor import Finding, board, cann, diagnose, python
from omfuse.errors import UsageError


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH", "ACL_LIB",
                 "ASCEND_CUSTOM_OPP_PATH", "ENABLE_RUNTIME_V2", "LD_LIBRARY_PATH"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(board, "DEVICES", tmp_path / "dev")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def home(tmp_path: Path, version: str = "8.1.RC1") -> Path:
    """A CANN folder with an atc that is never run."""
    root = tmp_path / "cann"
    script(root / "bin" / "atc", "raise SystemExit(1)")
    (root / "version.cfg").write_text(f"runtime_running_version=[7.7.0.1.238:{version}]\n")
    return root


def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    script(tmp_path / "bin" / "python3", f"print({chr(10).join(lines)!r})")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_a_laptop_without_anything_is_not_broken() -> None:
    findings = diagnose(build=False)
    assert not [finding for finding in findings if finding.status == "fail"]
    found = by_name(findings)
    assert found["cann"].status == found["device"].status == found["acl"].status == "skip"
    assert all(f.fix for f in findings if f.status in ("skip", "warn", "fail"))


def test_numpy_2_and_missing_modules_break_atc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(tmp_path, monkeypatch, "numpy 2.1.3", "missing scipy", "missing google.protobuf")
    found = by_name(list(cann.compiling(home(tmp_path), None)))
    assert found["cann"].text.startswith("CANN 8.1.RC1 at ")
    assert found["atc-numpy"].status == "fail"
    assert "numpy<2" in found["atc-numpy"].fix
    assert found["atc-python"].fix.endswith("-m pip install scipy protobuf")


def test_numpy_1_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path, monkeypatch, "numpy 1.26.4")
    found = by_name(list(cann.compiling(home(tmp_path), None)))
    assert "atc-numpy" not in found
    assert found["atc-python"].status == "ok"


def test_an_old_cann_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_python(tmp_path, monkeypatch, "numpy 1.26.4")
    found = by_name(list(cann.compiling(home(tmp_path, "7.0.0"), None)))
    assert found["cann-version"].status == "warn"


def test_a_missing_operator_package_is_broken_for_a_named_chip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(tmp_path, monkeypatch, "numpy 1.26.4")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path / "gone"))
    findings = list(cann.compiling(home(tmp_path), "Ascend310P3"))
    found = by_name(findings)
    assert found["op-package"].status == "fail"
    assert "omfuse op build" in found["op-package"].fix
    assert found["op-path"].status == "warn"
    assert by_name(list(cann.compiling(home(tmp_path), None)))["op-package"].status == "warn"


def test_a_board_without_library_or_rights_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "davinci0").touch()
    (tmp_path / "dev" / "davinci_manager").touch()
    monkeypatch.setattr(board, "_may_open", lambda path: False)
    script(
        tmp_path / "bin" / "npu-smi", "print('dcmi module initialize failed')\nraise SystemExit(1)"
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found = by_name(list(board.running()))
    assert found["device"].text == "1 NPU: davinci0"
    assert found["device-access"].status == "fail"
    assert found["acl"].status == "fail"
    assert "dcmi module initialize failed" in found["npu-smi"].text


def test_settings_that_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_RUNTIME_V2", "0")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/cann/devlib:/opt/cann/lib64")
    found = by_name(list(board.running()))
    assert found["runtime-v2"].status == found["stub-path"].status == "warn"


def test_an_old_package_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = python._version
    versions = {"onnx": "1.12.0", "onnxruntime": None}
    monkeypatch.setattr(python, "_version", lambda name: versions.get(name, real(name)))
    texts = [f.text for f in python.python() if f.status == "fail"]
    assert any("onnx 1.12.0 is older than" in text for text in texts)
    assert "onnxruntime is not installed" in texts


def test_no_compiler_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omfuse.host.native.compiler", lambda: None)
    assert by_name(list(python.host(True)))["compiler"].status == "warn"
    assert by_name(list(python.simulation(True)))["sim"].status == "skip"


def test_a_wrong_folder_and_a_wrong_chip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bin/atc"):
        diagnose(cann_home=tmp_path, build=False)
    with pytest.raises(UsageError):
        diagnose(soc="Ascend310", build=False)


def test_command(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["doctor", "--quick", "--json"], standalone_mode=False)
    document = json.loads(done.stdout)
    assert document["schema"] == "omfuse.doctor/1"
    assert document["problems"] == 0
    monkeypatch.setattr(python, "_version", lambda name: None)
    done = CliRunner().invoke(app, ["doctor", "--quick"], standalone_mode=False)
    assert done.return_value == 1
    assert "FAIL" in done.stdout
    assert "fix: pip install" in done.stdout


def test_the_probe_runs_in_a_real_python() -> None:
    done = subprocess.run(
        [sys.executable, "-c", cann._PROBE, "json", "no_such_module"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith("numpy ")
    assert lines[1:] == ["missing no_such_module"]
