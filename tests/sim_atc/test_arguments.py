from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.sim_atc.conftest import FORM, STATIC, Said, atc, save

from omfuse.sim.atc.arguments import read_arguments
from omfuse.sim.atc.failure import FAILED, START, SUCCESS, AtcFailure
from omfuse.sim.package import write_package


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--model=a"], {"model": "a"}),
        (["--model", "a"], {"model": "a"}),
        (["-model=a"], {"model": "a"}),
        (["--soc-version=X"], {"soc_version": "X"}),
        (["--soc=X"], {"soc_version": "X"}),
        (["--check=1"], {"check_report": "1"}),
        (["--log=info", "--log=error"], {"log": "error"}),
        (["--model=a=b"], {"model": "a=b"}),
        (["--input_shape", "--x"], {"input_shape": "--x"}),
        (["-h"], {"help": "true"}),
        (["--help"], {"help": "true"}),
        (["--raw_ge_options_ignore_unsupported=YES"],
         {"raw_ge_options_ignore_unsupported": "true"}),
        (["--raw_ge_options_ignore_unsupported=f"],
         {"raw_ge_options_ignore_unsupported": "false"}),
    ],
)  # fmt: skip
def test_what_getopt_accepts(argv: list[str], expected: dict[str, str]) -> None:
    assert read_arguments(argv) == expected


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--foo=1"], "ERROR: unknown command line flag 'foo'"),
        (["--dynamic=1"], "ERROR: unknown command line flag 'dynamic'"),
        (["--model"], "ERROR: flag '--model' is missing its argument"),
        (["--model=a", "loose"], "ERROR: Non-option parameter: loose"),
        ([], "ERROR: input argument value is empty"),
    ],
)
def test_trouble_goes_to_stderr_in_one_line(tmp_path: Path, argv: list[str], line: str) -> None:
    said = atc(*argv, cwd=tmp_path)
    assert said.status == 255
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1
    assert said.out.splitlines()[:2] == [START, FAILED]
    assert "\n...\n" not in said.out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--framework=five"], "E10003"),
        (["--framework=-1"], "E10003"),
        (["--framework=2"], "E10007"),
        (["--log=loud"], "E10010"),
        (["--log="], "E10010"),
        (["--external_weight=3"], "E10006"),
        (["--save_original_model=1"], "E10005"),
        (["--precision_mode=fp16"], "E10001"),
        (["--mode=2"], "E10001"),
        (["--log=loud", "--log=error"], "E10010"),
    ],
)
def test_value_sets_are_checked_while_reading(argv: list[str], code: str) -> None:
    with pytest.raises(AtcFailure) as caught:
        read_arguments(argv)
    assert [m.code for m in caught.value.messages] == [code]


def base(tmp_path: Path) -> dict[str, str]:
    return {
        "model": str(save(tmp_path, FORM)),
        "framework": "5",
        "output": str(tmp_path / "out" / "m"),
        "soc_version": "Ascend310P3",
        "input_shape": STATIC,
    }


def call(tmp_path: Path, flags: dict[str, str], **env: str) -> Said:
    env.setdefault("ASCEND_CUSTOM_OPP_PATH", str(write_package(tmp_path / "opp")))
    return atc(*(f"--{n}={v}" for n, v in flags.items()), cwd=tmp_path, **env)


def test_a_good_run(tmp_path: Path) -> None:
    said = call(tmp_path, base(tmp_path))
    assert said.out.splitlines() == [START, "...", SUCCESS]
    assert (said.status, said.err) == (0, "")
    made = sorted(p.name for p in tmp_path.iterdir())
    assert made == ["fusion_result.json", "kernel_meta", "model.onnx", "opp", "out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.om"]


def test_the_suffix_is_always_appended(tmp_path: Path) -> None:
    call(tmp_path, {**base(tmp_path), "output": str(tmp_path / "m.om")})
    assert (tmp_path / "m.om.om").exists()


# Each broken flag alone, from the first check to the last: the order is ATC's.
ORDER: list[tuple[str, dict[str, str | None]]] = [
    ("E10001", {"raw_ge_options": "{"}),
    ("E10001", {"auto_tune_mode": "RL,GA"}),
    ("E10007", {"framework": None}),
    ("E10055", {"mode": "30"}),
    ("E10001", {"input_format": "NHWC"}),
    ("E10054", {"soc_version": ""}),
    ("E10022", {"output": "out/"}),
    ("E10001", {"optypelist_for_implmode": "Gelu"}),
    ("E10056", {"precision_mode": "force_fp16", "precision_mode_v2": "fp16"}),
    ("E10014", {"input_shape": "q:a"}),
    ("E10047", {"compress_weight_conf": "model.onnx", "enable_compress_weight": "true"}),
    ("E10001", {"out_nodes": "attn:0;y"}),
    ("E20101", {"soc_version": "Ascend310P"}),
    ("E10016", {"input_shape": "z:1"}),
    ("E11017", {"out_nodes": "nothing:0"}),
]


@pytest.mark.parametrize("first", range(len(ORDER) - 1))
def test_the_first_check_that_fails_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.chdir(tmp_path)
    flags: dict[str, str | None] = {**base(tmp_path)}
    for _, change in reversed(ORDER[first:]):
        flags.update(change)
    said = call(tmp_path, {name: value for name, value in flags.items() if value is not None})
    assert said.status == 255
    assert said.code == ORDER[first][0], said.out
    assert not list(tmp_path.rglob("*.om"))


def test_output_folders_are_made_by_the_check_and_stay(tmp_path: Path) -> None:
    said = call(tmp_path, {**base(tmp_path), "input_shape": "q:x"})
    assert said.code == "E10014"
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("folder", ["a b", "a+b", "a~", "a@b"])
def test_the_real_path_of_an_input_is_checked(tmp_path: Path, folder: str) -> None:
    odd = tmp_path / folder
    odd.mkdir()
    save(odd, FORM)
    (tmp_path / "link").symlink_to(odd)
    said = call(tmp_path, {**base(tmp_path), "model": str(tmp_path / "link" / "model.onnx")})
    assert said.code == "E10001"
    assert "can only contain" in said.out
    chinese = tmp_path / "模型"
    chinese.mkdir()
    assert call(tmp_path, {**base(tmp_path), "model": str(save(chinese, FORM))}).status == 0


def test_the_block_of_model_information(tmp_path: Path) -> None:
    shown = call(tmp_path, {**base(tmp_path), "display_model_info": "1"})
    again = atc(f"--om={tmp_path / 'out' / 'm.om'}", "--mode=6", cwd=tmp_path)
    for said in (shown, again):
        assert said.status == 0
        assert "soc_version[Ascend310P3], framework_type[Onnx]" in said.out
        assert "Original Atc command line: atc.bin --model=" in said.out
    assert "om       info: modeldef_size[" in again.out
    bad = atc("--om=x", "--mode=6", "--framework=5", cwd=tmp_path)
    assert bad.code == "E10057"


def test_the_precheck_mode_writes_a_report_only(tmp_path: Path) -> None:
    flags = base(tmp_path)
    del flags["output"]
    said = call(tmp_path, {**flags, "mode": "3"})
    assert said.status == 0
    assert '"result": "success"' in (tmp_path / "check_result.json").read_text("utf-8")
    assert not list(tmp_path.rglob("*.om"))


def test_work_files_go_where_ascend_work_path_says(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    call(tmp_path, base(tmp_path), ASCEND_WORK_PATH=str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "fusion_result.json").exists()
    assert not (tmp_path / "fusion_result.json").exists()


def test_a_single_operator_is_not_simulated(tmp_path: Path) -> None:
    flags = {**base(tmp_path), "singleop": "op.json"}
    assert call(tmp_path, flags).code == "E10001"
    del flags["framework"]
    assert call(tmp_path, flags).code == "E10055"


def test_models_as_json(tmp_path: Path) -> None:
    flags = base(tmp_path)
    call(tmp_path, flags)
    om, target = tmp_path / "out" / "m.om", tmp_path / "m.json"
    assert atc("--mode=1", f"--om={om}", f"--json={target}", cwd=tmp_path).status == 0
    assert json.loads(target.read_text("utf-8"))["soc"] == "Ascend310P3"
    done = atc(
        "--mode=1", f"--om={flags['model']}", f"--json={target}", "--framework=5", cwd=tmp_path
    )  # fmt: skip
    assert done.status == 0
    assert json.loads(target.read_text("utf-8"))["graph"]["node"][1]["opType"] == "FlashAttention"
    assert atc("--mode=1", f"--om={om}", cwd=tmp_path).code == "E10004"
    assert atc("--mode=1", f"--json={target}", cwd=tmp_path).code == "E10004"
    assert atc("--mode=1", f"--om={target}", f"--json={target}", cwd=tmp_path).code == "E19005"


def test_deprecated_flags_are_named_on_the_screen(tmp_path: Path) -> None:
    flags = [f"--model={save(tmp_path, FORM)}", "--framework=5", f"--output={tmp_path / 'm'}",
             "--soc_version=Ascend310P3"]  # fmt: skip
    ranges = "--input_shape_range=q:[1~2,2,8,16];k:[1~2,2,8,16];v:[1~2,2,8,16]"
    opp = {"ASCEND_CUSTOM_OPP_PATH": str(write_package(tmp_path / "opp"))}
    said = atc(*flags, ranges, cwd=tmp_path, **opp)
    assert (said.status, said.out.count("WARNING: --input_shape_range")) == (0, 2)
    build = "--shape_generalized_build_mode=shape_precise"
    said = atc(*flags, f"--input_shape={STATIC}", build, cwd=tmp_path, **opp)
    assert (said.status, "deprecated" in said.out) == (0, True)


def test_paths_and_modes_are_checked_in_order(tmp_path: Path) -> None:
    flags = [f"--model={save(tmp_path, FORM)}", "--framework=5", f"--output={tmp_path / 'm'}",
             "--soc_version=Ascend310P3"]  # fmt: skip
    both = ["--precision_mode=force_fp16", "--precision_mode_v2=fp16"]
    assert atc(*flags, *both, "--op_precision_mode=/no", cwd=tmp_path).code == "E10001"
    assert atc(*flags, *both, "--keep_dtype=/no", cwd=tmp_path).code == "E10056"
    assert atc(*flags, "--modify_mixlist=/no", "--input_shape=q", cwd=tmp_path).code == "E10001"


def test_only_failures_of_arguments_come_without_dots(tmp_path: Path) -> None:
    flags = [f"--model={save(tmp_path, FORM)}", "--framework=5", f"--output={tmp_path / 'm'}",
             "--soc_version=Ascend310P3"]  # fmt: skip
    opp = {"ASCEND_CUSTOM_OPP_PATH": str(write_package(tmp_path / "opp"))}
    late = atc(*flags, "--input_shape=z:1", cwd=tmp_path, **opp)
    early = atc(*flags, "--input_shape=z:0", cwd=tmp_path, **opp)
    assert (late.code, early.code) == ("E10016", "E10011")
    assert f"\n...\n{FAILED}" in late.out
    assert "..." not in early.out


def test_mode_5_asks_for_its_own_arguments(tmp_path: Path) -> None:
    text = tmp_path / "ge_proto.txt"
    text.write_text("", "utf-8")
    om = f"--om={text}"
    assert atc("--mode=5", cwd=tmp_path).code == "E10004"
    assert atc("--mode=5", om, cwd=tmp_path).code == "E10004"
    assert atc("--mode=5", f"--om={__file__}", "--json=o.json", cwd=tmp_path).code == "E10001"
    assert atc("--mode=5", om, "--json=o.json", cwd=tmp_path).code == "E10055"
