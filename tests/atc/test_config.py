from __future__ import annotations

from pathlib import Path

import pytest

from omfuse.atc import config
from omfuse.errors import UsageError

# soc_version, cube cores, vector cores, L1 KiB, UB KiB, L0C KiB, L2 MiB, MHz
NUMBERS = [
    ("Ascend310P1", 10, 8, 1024, 256, 256, 16, 1060),
    ("Ascend310P3", 8, 7, 1024, 256, 256, 16, 1060),
    ("Ascend310P5", 8, 7, 1024, 256, 256, 16, 800),
    ("Ascend310P7", 8, 7, 1024, 256, 256, 16, 550),
    ("Ascend310B1", 1, 1, 1024, 248, 128, 4, 1224),
    ("Ascend310B4", 1, 1, 1024, 248, 128, 4, 500),
    ("Ascend910A", 32, 0, 1024, 256, 256, 32, 1000),
    ("Ascend910ProA", 32, 0, 1024, 256, 256, 32, 1100),
    ("Ascend910PremiumA", 32, 0, 1024, 256, 256, 32, 1220),
    ("Ascend910B", 30, 0, 1024, 256, 256, 32, 900),
    ("Ascend910ProB", 30, 0, 1024, 256, 256, 32, 1150),
    ("Ascend910B1", 24, 48, 512, 192, 128, 192, 1850),
    ("Ascend910B2", 24, 48, 512, 192, 128, 192, 1800),
    ("Ascend910B3", 20, 40, 512, 192, 128, 192, 1800),
    ("Ascend910B4", 20, 40, 512, 192, 128, 96, 1500),
    ("Ascend910B4-1", 20, 40, 512, 192, 128, 168, 1500),
    ("Ascend910_9362", 20, 40, 512, 192, 128, 168, 1500),
    ("Ascend910_9372", 20, 40, 512, 192, 128, 192, 1800),
    ("Ascend910_9382", 24, 48, 512, 192, 128, 192, 1800),
    ("Ascend910_9392", 24, 48, 512, 192, 128, 192, 1850),
]


@pytest.mark.parametrize(("name", "cube", "vector", "l1", "ub", "l0c", "l2", "mhz"), NUMBERS)
def test_hardware_numbers(
    name: str, cube: int, vector: int, l1: int, ub: int, l0c: int, l2: int, mhz: int
) -> None:
    soc = config.load_soc(name)
    hw = soc.hardware
    assert (soc.cube_cores, soc.vector_cores) == (cube, vector)
    sizes = [hw[f"{part}_bytes"] for part in ("l1", "ub", "l0c", "l2")]
    assert sizes == [l1 * 1024, ub * 1024, l0c * 1024, l2 * 1024 * 1024]
    assert hw["cube_mhz"] == mhz


def test_every_file_loads_and_has_the_name_of_its_chip() -> None:
    names = config.soc_names()
    assert len(names) == 25
    for name in names:
        soc = config.load_soc(name)
        assert soc.name == name
        assert soc.atc["log"] == "error"
        assert 0 < soc.guards["min_scores"] <= soc.guards["sure_scores"]
        if soc.attention["prompt_flash"]:
            assert soc.attention["mask"] in ("square-16", "any")


def test_support_by_family() -> None:
    assert not config.load_soc("Ascend310P3").bf16
    assert not config.load_soc("Ascend910A").bf16
    assert config.load_soc("Ascend310B1").bf16
    assert config.load_soc("Ascend910_9392").bf16
    assert not config.load_soc("Ascend310B1").shape_range


def test_case_and_prefix_of_a_name_do_not_matter() -> None:
    for typed in ("Ascend310P3", "ascend310p3", "310P3", "310p3"):
        assert config.load_soc(typed).name == "Ascend310P3"


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("Ascend310P", "Ascend310P3"),
        ("Ascend310B", "Ascend310B1"),
        ("910_93", "Ascend910_9392"),
        ("Ascend910B5", "Ascend910B4"),
        ("Ascend310P33", "Ascend310P3"),
    ],
)
def test_traps_and_near_names(typed: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load_soc(typed)
    assert caught.value.code == "unknown-soc"
    assert "E20101" in caught.value.message
    assert near in (caught.value.hint or "")


def test_the_old_910b_says_what_it_is() -> None:
    assert any("Ascend910B4" in note for note in config.load_soc("Ascend910B").notes)
    assert config.load_soc("Ascend910B").family == "Ascend910"
    assert config.load_soc("Ascend910B4").family == "Ascend910B"


def test_overlay_goes_table_by_table() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 1}
    assert config.overlay(base, {"a": {"y": 3}, "b": {"z": 1}}) == {
        "a": {"x": 1, "y": 3},
        "b": {"z": 1},
    }
    assert base["a"] == {"x": 1, "y": 2}


PROJECT = """
[compile]
precision = "protected"
shape = { batch = [1, 4] }
set = { log = "info" }

[target.ascend310p3]
precision = "fp16"
set = { op_select_implmode = "high_precision" }
"""


def test_the_project_file_is_found_above_and_layered(tmp_path: Path) -> None:
    (tmp_path / "omfuse.toml").write_text(PROJECT, "utf-8")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    found = config.find_project(inner)
    assert found == tmp_path / "omfuse.toml"
    settings = config.load_project(found, "Ascend310P3")
    assert settings["precision"] == "fp16"
    assert settings["set"] == {"log": "info", "op_select_implmode": "high_precision"}
    assert config.load_project(found, "Ascend910B4")["precision"] == "protected"
    assert config.load_project(None) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[compile]\nprecison = 'fp16'", "did you mean precision?"),
        ("[compile]\nprecision = 3", "must be str"),
        ("[compile", "cannot read"),
        ("compile = 1", "must be a table"),
        ("[target.Ascend310PX]\nprecision = 'fp16'", "E20101"),
    ],
)
def test_a_bad_project_file_is_one_clear_error(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "omfuse.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        config.load_project(path, "Ascend310P3")
    assert words in f"{caught.value.message} {caught.value.hint}"
