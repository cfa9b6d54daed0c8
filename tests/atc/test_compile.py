from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.atc.compiling import SHAPES, Maker, compile_fused, package
from tests.atc.conftest import DONE, GOOD, PLAIN, START, check_schema, parse

import omfuse
from omfuse.atc import cache, precision
from omfuse.atc.compile import run_jobs
from omfuse.atc.config import load_soc
from omfuse.atc.driver import AtcError
from omfuse.atc.job import CompileResult, Job, output_names
from omfuse.atc.op_package import version_in_range
from omfuse.atc.options.problem import OptionsError
from omfuse.errors import ModelError, NotAvailableError, OmfuseError, OutputError, UsageError


def test_a_model_becomes_an_om_with_a_manifest(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    output = tmp_path / "deep" / "model.om"
    result = omfuse.compile(plain, output, "310P3", shape=SHAPES, cann=fake_cann())
    assert isinstance(result, CompileResult)
    assert output.read_bytes()[:4] == b"IMOD"
    assert stat.S_IMODE(output.stat().st_mode) & 0o444 == 0o444
    assert result.manifest is not None
    manifest = json.loads(result.manifest.read_text("utf-8"))
    assert manifest["schema"] == "omfuse.manifest/1"
    assert manifest["cann"] == {"version": "8.1.RC1", "inner": "7.7.0.1.238"}
    assert manifest["om"]["sha256"] == cache.file_digest(output)
    assert manifest["model"]["sha256"] == cache.file_digest(plain)
    assert manifest["options"]["input_shape"] == "q:1,2,16,8;k:1,2,16,8"
    words = shlex.split(result.command)
    assert words[0].startswith("ASCEND_OPP_PATH="), "the user has not sourced set_env.sh"
    assert words[1].endswith("bin/atc")
    assert words[2:] == [f"--{k}={v}" for k, v in manifest["options"].items()]
    assert sorted(p.name for p in output.parent.iterdir()) == ["model.manifest.json", "model.om"]
    assert result.info["path"] == str(output)
    again = omfuse.compile(plain, tmp_path / "b.om", "310P3", shape=SHAPES, cann=fake_cann())
    assert again.info["path"] == str(tmp_path / "b.om")


def test_the_manifest_names_everything_that_went_in(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    home = fake_cann()
    root = package(home)
    (root / "version.info").write_text("compiler_version=7.7.0\n", "utf-8")
    model = onnx.load(str(plain))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(64, np.float32), "w"))
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    result = omfuse.compile(path, tmp_path / "m.om", "310P3", shape=SHAPES, cann=home)
    assert result.manifest is not None
    manifest = json.loads(result.manifest.read_text("utf-8"))
    (weights,) = manifest["model"]["external"]
    assert weights["sha256"] == cache.file_digest(path.parent / "w.bin")
    assert manifest["packages"] == [
        {"vendor": "omfuse", "version": "7.7.0", "sha256": cache.tree_digest([root])}
    ]
    check_schema(manifest)


def test_a_model_in_memory_compiles(fake_cann: Maker, tmp_path: Path) -> None:
    result = omfuse.compile(
        parse(PLAIN), tmp_path / "m.om", "310P3", shape=["batch=1,2", "seq=8"], cann=fake_cann()
    )
    assert result.shape_kind == "batch-gears"


def counting(tmp_path: Path) -> str:
    return GOOD + f"open({str(tmp_path / 'count')!r}, 'a').write('x')\n"


def count(tmp_path: Path) -> int:
    path = tmp_path / "count"
    return len(path.read_text("utf-8")) if path.exists() else 0


def test_the_cache_answers_only_for_equal_content(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    home = fake_cann(counting(tmp_path))

    def go(name: str = "a.om", soc: str = "310P3", **more: object) -> CompileResult:
        options: dict[str, object] = {"shape": SHAPES, "cann": home, **more}
        return omfuse.compile(plain, tmp_path / name, soc, **options)  # type: ignore[arg-type]

    first = go()
    again = go("b.om")
    assert (first.cached, again.cached, count(tmp_path)) == (False, True, 1)
    assert (tmp_path / "b.om").read_bytes() == (tmp_path / "a.om").read_bytes()
    assert again.manifest == tmp_path / "b.manifest.json"
    assert not go(soc="910B3").cached
    assert not go(shape={"batch": 2, "seq": 16}).cached
    assert not go(settings={"log": "info"}).cached
    assert not go(precision="protected").cached
    assert not go(use_cache=False).cached
    package(home)
    assert not go().cached, "a new operator package may change the result"
    assert go().cached
    onnx.save(parse(PLAIN.replace("perm=[0,1,3,2]", "perm=[0,1,3,2] ")), str(plain))
    assert go().cached, "the same bytes are the same model"
    onnx.save(parse(PLAIN.replace("kt", "kx")), str(plain))
    assert not go().cached


def test_a_damaged_entry_is_not_used(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    home = fake_cann(counting(tmp_path))
    for _ in range(2):
        result = omfuse.compile(plain, tmp_path / "a.om", "310P3", shape=SHAPES, cann=home)
        (stored,) = (tmp_path / "cache").glob("*/model.om")
        stored.write_bytes(b"damaged")
    assert not result.cached
    assert count(tmp_path) == 2


def test_the_cache_stays_below_its_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMFUSE_CACHE_BYTES", "2500")
    om = tmp_path / "x.om"
    om.write_bytes(b"x" * 900)
    for index in range(5):
        cache.store(f"key{index}", om, [], {"result": {}})
    assert cache.look_up("key4") is not None
    assert cache.look_up("key0") is None


def test_weights_beside_a_cached_om_are_checked_too(tmp_path: Path) -> None:
    om, weights = tmp_path / "x.om", tmp_path / "weight"
    om.write_bytes(b"x")
    weights.mkdir()
    (weights / "w0").write_bytes(b"w")
    cache.store("key", om, [weights], {"result": {}})
    hit = cache.look_up("key")
    assert hit is not None
    (hit.extra[0] / "w0").write_bytes(b"damaged")
    assert cache.look_up("key") is None
    assert not (tmp_path / "cache" / "key").exists()


@pytest.mark.parametrize("text", ["8GiB", "-1", "1e9"])
def test_a_limit_of_the_cache_that_is_no_number(
    fake_cann: Maker, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OMFUSE_CACHE_BYTES", text)
    with pytest.raises(UsageError) as caught:
        omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=fake_cann())
    assert caught.value.code == "bad-cache-bytes"
    assert not (tmp_path / "m.om").exists()


def test_a_failure_leaves_no_output_and_keeps_the_logs(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    home = fake_cann(START + "print('E20001: Failed to compile Op [x]')\nsys.exit(255)")
    before = plain.read_bytes()
    with pytest.raises(AtcError) as caught:
        omfuse.compile(plain, tmp_path / "out" / "m.om", "310P3",
                       shape={"batch": [1, 4], "seq": 16}, cann=home)  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert plain.read_bytes() == before
    assert (caught.value.folder / "atc.log").exists()
    assert (caught.value.folder / "model.onnx").exists()
    assert "--shape 'q=4,2,16,8'" in (caught.value.hint or ""), "each gear is named to be tried"


def test_awkward_paths_of_the_user_do_not_matter(fake_cann: Maker, tmp_path: Path) -> None:
    folder = tmp_path / "my models + über@home"
    folder.mkdir()
    onnx.save(parse(PLAIN), str(folder / "a b.onnx"))
    result = omfuse.compile(
        folder / "a b.onnx", folder / "c d.om", "310P3", shape=SHAPES, cann=fake_cann()
    )
    assert (folder / "c d.om").exists()
    words = shlex.split(result.command)
    for word in words[1:]:
        if word.startswith(("--model", "--output")):
            assert " " not in word
            assert "+" not in word


def test_outside_weights_land_beside_the_om(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    body = (
        START
        + """
import os
folder = os.path.dirname(flags["output"])
os.mkdir(folder + "/weight")
open(folder + "/weight/weight_1", "wb").write(b"w")
write_om(flags["output"] + "_linux_x86_64.om", b"x")
"""
        + DONE
    )
    home = fake_cann(body)
    for name in ("a", "b"):
        output = tmp_path / name / "m.om"
        result = omfuse.compile(plain, output, "310P3", shape=SHAPES, cann=home)
        assert (output.parent / "weight" / "weight_1").read_bytes() == b"w"
        assert result.manifest is not None
        om = json.loads(result.manifest.read_text("utf-8"))["om"]
        assert om["atc_name"] == "m_linux_x86_64.om"
        assert "the .om needs weight beside it, wherever it goes" in result.notes
    assert result.cached


def test_rules_stop_a_compile_before_atc_unless_unchecked(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    home = fake_cann(counting(tmp_path))
    bad = {"shape": SHAPES, "cann": home, "settings": {"auto_tune_mode": "RL,GA"}}
    with pytest.raises(OptionsError, match="E10001"):
        omfuse.compile(plain, tmp_path / "m.om", "310P3", **bad)  # type: ignore[arg-type]
    assert count(tmp_path) == 0
    result = omfuse.compile(plain, tmp_path / "m.om", "310P3", checked=False, **bad)  # type: ignore[arg-type]
    assert count(tmp_path) == 1
    assert any("auto_tune_mode" in w for w in result.warnings)


def test_the_chip_must_be_installed(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    home = fake_cann()
    inis = home / "x86_64-linux" / "data" / "platform_config"
    inis.mkdir(parents=True)
    (inis / "Ascend310P3.ini").write_text("", "utf-8")
    omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=home)
    with pytest.raises(UsageError) as caught:
        omfuse.compile(plain, tmp_path / "m.om", "910B3", shape=SHAPES, cann=home)
    assert caught.value.code == "soc-not-installed"


# The operator package


def test_the_operator_is_looked_for_before_atc_starts(
    fake_cann: Maker, fused: Path, tmp_path: Path
) -> None:
    home = fake_cann(counting(tmp_path))
    with pytest.raises(NotAvailableError) as caught:
        compile_fused(fused, tmp_path, home)
    assert caught.value.code == "op-not-installed"
    assert "omfuse op install" in (caught.value.hint or "")
    assert count(tmp_path) == 0
    package(home)
    assert len(compile_fused(fused, tmp_path, home).attention) == 1
    assert count(tmp_path) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("keys", "does not list ai.onnx::17::FlashAttention"),
        ("proto", "E10501"),
        ("soc", "EZ3003"),
        ("version", "skips it"),
    ],
)
def test_each_way_in_which_a_package_can_be_unfit(
    fake_cann: Maker, fused: Path, tmp_path: Path, change: str, words: str
) -> None:
    home = fake_cann()
    keys = "ai.onnx::11::FlashAttention" if change == "keys" else "ai.onnx::17::FlashAttention"
    root = package(home, keys, "ascend910b" if change == "soc" else "ascend310p")
    if change == "proto":
        (root / "op_proto/lib/libcust.so").unlink()
    if change == "version":
        (root / "version.info").write_text("compiler_version=8.5.0\n", "utf-8")
        (home / "compiler").mkdir()
        text = 'required_opp_abi_version=">=6.3, <=7.7"\n'
        (home / "compiler" / "version.info").write_text(text, "utf-8")
    with pytest.raises(NotAvailableError) as caught:
        compile_fused(fused, tmp_path, home)
    assert words in caught.value.message


def test_a_package_in_the_environment_comes_first(
    fake_cann: Maker, fused: Path, tmp_path: Path
) -> None:
    home = fake_cann()
    good = package(tmp_path / "elsewhere")
    package(home, "ai.onnx::11::FlashAttention")
    result = compile_fused(fused, tmp_path, home, op_paths=(good,))
    assert f"ASCEND_CUSTOM_OPP_PATH={good}" in result.command


@pytest.mark.parametrize(
    ("version", "ranges", "inside"),
    [
        ("7.7.0.1.238", ">=6.3, <=7.7", True),
        ("7.8", ">=6.3, <=7.7", False),
        ("6.2.9", ">=6.3, <=7.7", False),
        ("6.3", ">=6.3, <=7.7", True),
        ("10.0", ">=6.3", True),
        ("7.7.0", "7.7", True),
    ],
)
def test_version_ranges(version: str, ranges: str, inside: bool) -> None:
    assert version_in_range(version, ranges) is inside


# Several at once


def test_several_chips_and_one_failure(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    body = (
        START
        + """
if flags["soc_version"] == "Ascend910B3":
    print("E20101: unknown soc")
    sys.exit(255)
write_om(flags["output"] + ".om", flags["soc_version"].encode())
"""
        + DONE
    )
    home = fake_cann(body)
    texts = ("batch=1", "seq=16")
    jobs = [
        Job(plain, tmp_path / f"{soc}.om", soc, shape=texts, cann=home)
        for soc in ("Ascend310P3", "Ascend910B3", "Ascend310B1")
    ]
    results = run_jobs(jobs, 3)
    assert [isinstance(r, OmfuseError) for r in results] == [False, True, False]
    for soc in ("Ascend310P3", "Ascend310B1"):
        assert soc.encode() in (tmp_path / f"{soc}.om").read_bytes()
    assert not (tmp_path / "Ascend910B3.om").exists()


def test_output_names() -> None:
    out = Path("o/m.om")
    one, two = ["Ascend310P3"], ["Ascend310P3", "Ascend910B4-1"]
    assert output_names(out, one, [""]) == [out]
    assert output_names(out, two, [""]) == [
        Path("o/m.ascend310p3.om"),
        Path("o/m.ascend910b4-1.om"),
    ]
    assert output_names(Path("{soc}/m-{variant}.om"), one, ["b1", "b8"]) == [
        Path("ascend310p3/m-b1.om"),
        Path("ascend310p3/m-b8.om"),
    ]


# Precision


def test_protected_guards_softmax_its_scores_and_norms() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[1,2,4,8] q, float[1,2,4,4] m) => (float[1,2,4,4] y)
    <float two = {2.0}, float[4] w = {1,1,1,1}> {
      [t] kt = Transpose<perm=[0,1,3,2]>(q)
      [qk] s = MatMul(q, kt)
      [scale] z = Div(s, two)
      [mask] a = Add(z, m)
      [soft] p = Softmax<axis=-1>(a)
      [norm] l = LayerNormalization(p, w)
      [square] x2 = Pow(l, two)
      [mean] mu = ReduceMean<axes=[-1]>(x2)
      [eps] e = Add(mu, two)
      [root] r = Sqrt(e)
      [div] y = Div(l, r)
    }""")
    plan = precision.plan_precision("protected", model, load_soc("Ascend310P3"))
    guarded = plan.files["keep_dtype"].split()
    assert set(guarded) == {"soft", "mask", "scale", "norm", "square", "mean", "eps", "root"}
    assert "SoftmaxV2=high_precision" in plan.files["op_precision_mode"]


def test_presets_and_chips() -> None:
    with pytest.raises(UsageError) as caught:
        precision.check_preset("bf16", load_soc("Ascend310P3"))
    assert caught.value.code == "no-bf16"
    precision.check_preset("bf16", load_soc("Ascend910B4"))
    with pytest.raises(UsageError):
        precision.check_preset("fp17", load_soc("Ascend310P3"))
    assert precision.clamps_masks("fp16")
    assert not precision.clamps_masks("origin")


def test_the_users_own_mode_wins(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    result = omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=fake_cann(),
                            settings={"precision_mode_v2": "mixed_float16"})  # fmt: skip
    assert "precision_mode_v2=mixed_float16" in result.command
    assert "--precision_mode=" not in result.command


def test_the_users_own_list_wins_and_a_note_says_so(
    fake_cann: Maker, plain: Path, tmp_path: Path
) -> None:
    own = tmp_path / "mine.txt"
    own.write_text("s\n", "utf-8")
    result = omfuse.compile(plain, tmp_path / "m.om", "310P3", shape=SHAPES, cann=fake_cann(),
                            precision="protected", settings={"keep_dtype": str(own)})  # fmt: skip
    assert f"--keep_dtype={own}" in result.command
    assert any("keep_dtype as given" in note for note in result.notes)
    assert "--op_precision_mode=" in result.command


# Bad input


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "LFS"),
        (b"\x00\x01garbage", "not an ONNX model"),
        (b"", "no graph"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        omfuse.compile(path, tmp_path / "m.om", "310P3")


def test_outputs_that_cannot_be(fake_cann: Maker, plain: Path, tmp_path: Path) -> None:
    for name in ("m.bin", "m"):
        with pytest.raises(UsageError):
            omfuse.compile(plain, tmp_path / name, "310P3", shape=SHAPES)
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(OutputError):
        omfuse.compile(plain, blocked / "m.om", "310P3", shape=SHAPES, cann=fake_cann())


# The command line
