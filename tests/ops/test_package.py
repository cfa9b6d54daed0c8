"""Building and installing the operator package, with a CANN and a cmake of little scripts."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from tests.ops.commands import omfuse, omfuse_json
from tests.ops.fake_cann import CMAKE, make_cann, make_run_file, program

from omfuse.errors import ModelError, NotAvailableError, ToolchainError, UsageError
from omfuse.ops.install import install_package
from omfuse.ops.package import SOURCES, TEMPLATES, build_package, preset_of


@pytest.fixture
def cann(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolkit, a fake cmake on PATH, and no trace of a real CANN."""
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ASCEND_CUSTOM_OPP_PATH", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "cmake.log"))
    monkeypatch.setenv("FAKE_FAIL", "")
    monkeypatch.setenv("FAKE_PACKAGE", str(make_run_file(tmp_path, tree)))
    program(tmp_path / "tools/cmake", CMAKE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}")
    return make_cann(tmp_path)


def test_build_runs_the_presets_in_a_private_copy(tmp_path: Path, cann: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in SOURCES.rglob("*") if p.is_file()}
    built = build_package(["Ascend910B3"], tmp_path / "out", cann)
    assert built.preset == "ascend910b"
    assert built.package == tmp_path / "out/custom_opp_fake_x86_64.run"
    assert built.package.stat().st_mode & stat.S_IXUSR
    calls = (tmp_path / "cmake.log").read_text("utf-8").splitlines()
    assert calls[0] == "-S . -B build_out --preset=ascend910b"
    assert [call.split()[3] for call in calls[1:]] == ["binary", "package"]
    folder = Path((tmp_path / "cmake.log.folder").read_text("utf-8").splitlines()[0])
    assert SOURCES.resolve() not in (folder, *folder.parents)
    assert (folder / "cmake/func.cmake").read_text("utf-8") == "# func\n"
    assert (folder / "op_kernel/flash_attention.cpp").is_file()
    assert (folder / "op_host/tiling_plan.cc").is_file()
    assert {p: p.stat().st_mtime_ns for p in SOURCES.rglob("*") if p.is_file()} == before


def test_presets(cann: Path) -> None:
    assert preset_of([]) == "default"
    assert preset_of(["Ascend310P3", "Ascend310P1"]) == "ascend310p"
    assert preset_of(["Ascend310P3", "Ascend910B1"]) == "default"
    assert preset_of(["Ascend910_9392"]) == "ascend910_93"
    with pytest.raises(UsageError) as caught:
        preset_of(["Ascend310B1"])
    assert caught.value.code == "unsupported-soc"


def test_a_failed_build_says_the_compilers_words_and_leaves_nothing(
    tmp_path: Path, cann: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "--target binary")
    with pytest.raises(ToolchainError) as caught:
        build_package([], tmp_path / "out", cann)
    assert caught.value.code == "op-build-failed"
    assert "x.cpp:3:1: error: no such thing" in caught.value.message
    assert caught.value.where is not None
    assert "no such thing" in Path(caught.value.where).read_text("utf-8")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_build_that_makes_nothing_is_a_failure(
    tmp_path: Path, cann: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PACKAGE", "/dev/null/nothing")
    with pytest.raises(ToolchainError):
        build_package([], tmp_path / "out", cann)


def test_a_toolkit_without_templates_is_not_enough(tmp_path: Path, cann: Path) -> None:
    (cann / TEMPLATES / "cmake/func.cmake").unlink()
    with pytest.raises(NotAvailableError) as caught:
        build_package([], tmp_path / "out", cann)
    assert caught.value.code == "no-templates"


def test_build_without_cann_exits_4(
    tmp_path: Path, cann: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("omfuse.atc.environment.USUAL_HOMES", ())
    code, out, err = omfuse(capsys, "op", "build", "-o", tmp_path / "out")
    assert (code, out) == (4, "")
    assert "no-cann" in err
    assert "set_env.sh" in err
    assert not (tmp_path / "out").exists()


def test_build_install_and_check_from_the_command_line(
    tmp_path: Path, cann: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, document = omfuse_json(capsys, "op", "build", "--soc", "910B3", "-o", out, "--cann", cann)
    assert (code, document["schema"], document["preset"]) == (0, "omfuse.op-build/1", "ascend910b")
    assert document["cann_version"] == "8.1.RC1"
    code, document = omfuse_json(
        capsys, "op", "install", document["package"], "--path", tmp_path / "ops"
    )
    assert (code, document["schema"]) == (0, "omfuse.op-install/1")
    assert document["root"] == str(tmp_path / "ops/vendors/omfuse")
    at = ("--path", tmp_path / "ops", "--cann", cann)
    code, document = omfuse_json(capsys, "op", "check", "--soc", "Ascend910B3", *at)
    assert (code, document["schema"], document["ok"]) == (0, "omfuse.op-check/1", True), document


def test_the_run_file_installs_into_opp_before_other_vendors(tmp_path: Path, cann: Path) -> None:
    config = cann / "opp/vendors/config.ini"
    config.write_text("load_priority=other,omfuse\n", "utf-8")
    package = tmp_path / "custom_opp_fake_x86_64.run"
    installed = install_package(package, cann=cann)
    assert installed.root == cann / "opp/vendors/omfuse"
    assert installed.environment is None
    assert config.read_text("utf-8") == "load_priority=omfuse,other\n"
    assert not (installed.root / "bin").exists()
    install_package(package, cann=cann)
    assert config.read_text("utf-8") == "load_priority=omfuse,other\n"
    assert [p.name for p in (cann / "opp/vendors").iterdir() if p.is_dir()] == ["omfuse"]


@pytest.mark.parametrize("form", ["run", "folder"])
def test_both_forms_install_alike(tmp_path: Path, tree: Path, cann: Path, form: str) -> None:
    source = tmp_path / "custom_opp_fake_x86_64.run"
    if form == "folder":
        source = tmp_path / "vendors/omfuse"
        shutil.copytree(tree, source, symlinks=True)  # under the vendor's name
    installed = install_package(source, tmp_path / "ops")
    wanted = sorted(str(p.relative_to(tree)) for p in tree.rglob("*"))
    have = sorted(str(p.relative_to(installed.root)) for p in installed.root.rglob("*"))
    assert [p for p in have if not p.startswith("bin")] == wanted
    assert installed.environment == installed.root / "bin/set_env.bash"
    text = installed.environment.read_text("utf-8")
    assert f'export ASCEND_CUSTOM_OPP_PATH="{installed.root}' in text
    link = installed.root / "op_impl/ai_core/tbe/op_tiling/liboptiling.so"
    assert link.is_symlink()
    assert link.exists()


def test_an_install_replaces_an_older_one_whole(tmp_path: Path, tree: Path, cann: Path) -> None:
    old = tmp_path / "ops/vendors/omfuse/framework/old.so"
    old.parent.mkdir(parents=True)
    old.write_text("old", "utf-8")
    install_package(tmp_path / "custom_opp_fake_x86_64.run", tmp_path / "ops")
    assert not old.exists()


def test_what_is_no_package_is_refused(tmp_path: Path, cann: Path) -> None:
    for name, code in (("missing.run", "package-not-found"), ("text.zip", "not-a-package")):
        path = tmp_path / name
        if name == "text.zip":
            path.write_text("x", "utf-8")
        with pytest.raises(ModelError) as caught:
            install_package(path, tmp_path / "ops")
        assert caught.value.code == code
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError) as caught:
        install_package(empty, tmp_path / "ops")
    assert caught.value.code == "not-a-package"


def test_a_failing_installer_is_an_error(tmp_path: Path, cann: Path) -> None:
    broken = program(tmp_path / "broken.run", "#!/bin/sh\necho 'disk error: full'\nexit 1\n")
    with pytest.raises(ToolchainError) as caught:
        install_package(broken, tmp_path / "ops")
    assert "disk error" in caught.value.message


def test_build_script_refuses_without_cann(tmp_path: Path, cann: Path) -> None:
    script = SOURCES / "build.sh"
    env = {k: v for k, v in os.environ.items() if not k.startswith("ASCEND")}
    for arguments, code in ((["ascend910b"], 4), (["--bad"], 2), (["--cann", str(tmp_path)], 4)):
        done = subprocess.run(
            ["bash", str(script), *arguments], env=env, capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr
