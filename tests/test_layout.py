"""The four top-level folders form one import package, in a checkout and in a wheel."""

from __future__ import annotations

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
    ):
        assert wanted in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"omfuse"}
