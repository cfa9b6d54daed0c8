"""The four top-level folders form one import package, in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_links_of_the_editable_install_are_there() -> None:
    for name in ("patterns", "custom_ops", "atc_configs"):
        link = ROOT / "rewriter" / "omfuse" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_a_wheel_holds_every_package_and_no_generic_name(tmp_path: Path) -> None:
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    names = zipfile.ZipFile(path).namelist()
    for wanted in (
        "omfuse/api.py",
        "omfuse/py.typed",
        "omfuse/patterns/contractions.py",
        "omfuse/custom_ops/flash_attention/reference.py",
        "omfuse/atc_configs/ascend310p3.toml",
        "omfuse/atc/messages.toml",
        "omfuse/bundle/run.sh",
        "omfuse/custom_ops/flash_attention/op_kernel/flash_attention.cpp",
        "omfuse/schemas/omfuse.rewrite.1.json",
    ):
        assert wanted in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"omfuse"}


def test_the_wheel_made_from_the_sdist_works_elsewhere(tmp_path: Path) -> None:
    """Source archive, wheel from it, unpacked, run from another folder: the sample is fused."""
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    (archive,) = sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert not list(source.rglob("*.so"))
    build = (
        "import sys; from hatchling.builders.wheel import WheelBuilder;"
        "print(next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2])))"
    )
    words = [sys.executable, "-c", build, str(source), str(tmp_path)]
    wheel = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    with zipfile.ZipFile(wheel) as packed_wheel:
        packed_wheel.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "omfuse", "rewrite", str(ROOT / "examples" / "sample.onnx"),
         "-o", "fused.onnx"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.stdout.startswith("fused 6 of 6"), done.stderr
    where = "import omfuse; print(omfuse.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert str(tmp_path / "site") in found.stdout


def test_help_imports_nothing_heavy() -> None:
    """`omfuse --help` answers at once: what computes is imported when it is needed."""
    code = (
        "import sys; sys.argv = ['omfuse', '--help']\n"
        "from omfuse.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    heavy = {"numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "matplotlib", "ray", "google"}
    assert "typer" in loaded
    assert not loaded & heavy


def test_every_public_name_is_there() -> None:
    import omfuse

    for name in omfuse.__all__:
        assert getattr(omfuse, name)
    assert omfuse.open_session.__module__ == "omfuse.session"
