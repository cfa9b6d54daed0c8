"""`omfuse run` and `omfuse bench` with compiled models."""

import json

import numpy as np
import pytest
import sim_files
from sim_files import expected, feeds

from omfuse.cli.app import run
from omfuse.errors import UsageError


@pytest.fixture
def folder(om, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mode in ("static", "batch", "dims", "dynamic"):
        om(mode)
    for name, array in feeds(2).items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def call(*arguments):
    with pytest.raises(SystemExit) as caught:
        run([str(argument) for argument in arguments])
    return caught.value.code


def document(capsys):
    shown = capsys.readouterr()
    return json.loads(shown.out)


SIM = ("--device", "sim")
FILES = ("--input", "a=a.npy", "--input", "b=b.npy")


def test_run_by_name(folder, capsys, device):
    assert call("run", "batch.om", *SIM, *FILES, "--save-outputs", "out", "--json") == 0
    said = document(capsys)
    assert (said["schema"], said["device"], said["simulated"]) == ("omfuse.run/1", "sim", True)
    one = feeds(2)
    total = expected(one["a"], one["b"])["total"]
    np.testing.assert_array_equal(np.load(folder / "out" / "total.npy"), total)


@pytest.mark.parametrize(
    ("mode", "dims", "shape"),
    [
        ("static", [], [2, 4]),
        ("batch", [], [1, 4]),
        ("batch", ["batch=4"], [4, 4]),
        ("dims", ["a.0=4"], [4, 8]),
        ("dynamic", ["a.0=3", "b.0=3"], [3, 4]),
    ],
)
def test_random_inputs_fit_the_mode(mode, dims, shape, folder, capsys, device):
    options = [part for dim in dims for part in ("--dim", dim)]
    assert call("run", f"{mode}.om", *SIM, "--random", 7, *options, "--json") == 0
    said = document(capsys)
    assert [entry["shape"] for entry in said["inputs"]] == [shape, shape]
    assert said["outputs"][0]["nonfinite"] == 0


def test_times_of_a_simulation_are_called_so(folder, capsys, device):
    assert call("run", "static.om", *SIM, *FILES, "--loop", 3) == 0
    assert "simulated: times of this machine's CPU, no measure of a chip" in capsys.readouterr().out
    assert call("bench", "static.om", *SIM, "--seconds", 0, "--runs", 3) == 0
    assert "no measure of a chip" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "static.om", *FILES], 2, "no-device"),
        (["run", "static.om", "--device", "ascend", *FILES], 2, "simulated-om"),
        (["run", "none.om", *SIM, *FILES], 2, "model-not-found"),
        (["run", "static.om", *SIM, "--input", "a=a.npy"], 2, "bad-feed"),
        (["run", "batch.om", *SIM, "--random", "0", "--dim", "batch=3"], 2, "bad-shape"),
        (["run", "static.om", *SIM, "--random", "0", "--dim", "batch=3"], 2, "unknown-dim"),
        (["run", "static.om", *SIM, "--devices", "0-x", *FILES], 2, "bad-argument"),
        (["run", "static.om", *SIM, "--devices", "7", *FILES], 3, "acl-107001"),
        (["run", "static.om", *SIM, "--ray", *FILES], 2, "bad-argument"),
        (["run", "static.om", *SIM, "--input", "items"], 2, "no-output-folder"),
        (["bench", "static.om", *SIM, "--plot", "x.docx"], 2, "bad-argument"),
    ],
)
def test_mistakes_give_one_error(arguments, code, said, folder, capsys, device):
    (folder / "items").mkdir()
    assert call(*arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error[{said}]" in shown.err


def test_a_folder_on_four_devices_goes_on_where_it_stopped(folder, capsys, device):
    items = folder / "items"
    items.mkdir()
    for number in range(12):
        np.savez(items / f"i{number}.npz", **feeds(3 if number == 5 else 2, seed=number))
    line = ("run", "static.om", *SIM, "--devices", "0-3", "--input", items)
    line += ("--save-outputs", "out", "--json")
    assert call(*line) == 2
    said = document(capsys)
    assert (said["items"], said["done"], said["skipped"]) == (12, 11, 0)
    assert [entry["item"] for entry in said["failed"]] == ["i5"]
    assert said["failed"][0]["code"] == "bad-shape"
    for number in range(12):
        if number != 5:
            one = feeds(2, seed=number)
            with np.load(folder / "out" / f"i{number}.npz") as made:
                total = expected(one["a"], one["b"])["total"]
                np.testing.assert_array_equal(made["total"], total)
    np.savez(items / "i5.npz", **feeds(2))
    (folder / "out" / "i7.npz").write_bytes(b"PK half a file")
    assert call(*line) == 0
    said = document(capsys)
    assert (said["done"], said["skipped"], said["failed"]) == (2, 10, [])
    assert call(*line, "--again") == 0
    assert document(capsys)["done"] == 12


def test_one_folder_an_input_and_one_shared_file(folder, capsys, device):
    many = folder / "a_files"
    many.mkdir()
    for number in range(3):
        np.save(many / f"x{number}.npy", feeds(2, seed=number)["a"])
    line = ("run", "static.om", *SIM, "--input", "a=a_files", "--input", "b=b.npy")
    assert call(*line, "--save-outputs", "out") == 0
    assert "3 items run on sim, 0 were there" in capsys.readouterr().out
    with np.load(folder / "out" / "x2.npz") as made:
        want = feeds(2, seed=2)["a"] + feeds(2)["b"]
        np.testing.assert_array_equal(made["total"], want)


def test_a_failing_device_ends_a_folder_with_its_code(folder, capsys, device):
    items = folder / "items"
    items.mkdir()
    for number in range(6):
        np.savez(items / f"i{number}.npz", **feeds(2, seed=number))
    device.fault("exec", 3, 507015, "EZ9999: aicore exception")
    line = ("run", "static.om", *SIM, "--input", items, "--save-outputs", "out")
    assert call(*line) == 3
    assert "error[acl-507015]" in capsys.readouterr().err
    assert len(list((folder / "out").glob("*.npz"))) == 2
    assert call(*line) == 0
    assert "4 items run on sim, 2 were there" in capsys.readouterr().out


def test_a_folder_does_not_take_what_belongs_to_single_runs(folder, capsys, device):
    (folder / "items").mkdir()
    np.savez(folder / "items" / "i0.npz", **feeds(2))
    line = ("run", "static.om", *SIM, "--input", "items", "--save-outputs", "out")
    for more in (("--random", 0), ("--loop", 3), ("--dim", "batch=2")):
        assert call(*line, *more) == 2
        assert "do not go with a folder" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("isolated", [[], ["--isolated"]])
def test_a_run_that_takes_too_long_is_an_error_of_the_device(isolated, folder, capsys, device):
    """Also while inputs are looked for: no other input helps a device that is gone."""
    sim_files.write(folder / "slow.om", sim_files.slow_payload())
    line = ("run", "slow.om", *SIM, "--random", 0, "--timeout", 0.001, *isolated)
    assert call(*line) == 3
    assert "error[acl-507046]" in capsys.readouterr().err


def test_bfloat16_from_a_file(folder, capsys, device):
    sim_files.write(folder / "bf.om", sim_files.bfloat16_payload())
    x = np.array([1, 2.5, -3], sim_files.numpy_type("bfloat16"))
    np.save(folder / "x.npy", x)
    assert call("run", "bf.om", *SIM, "--input", "x=x.npy", "--save-outputs", "y.npz") == 0
    with np.load(folder / "y.npz") as made:
        np.testing.assert_array_equal(made["y"], [2, 5, -6])


def test_bench_refuses_to_compare_different_work(folder, capsys, device):
    line = ("--seconds", 0, "--runs", 3, *SIM)
    assert call("bench", "batch.om", "static.om", *line) == 2
    said = capsys.readouterr().err
    assert "A runs input 'a' with [1, 4], B with [2, 4]" in said
    assert "--dim" in said
    assert call("bench", "static.om", "batch.om", *line, "--json") == 0  # B follows A
    assert document(capsys)["ratio"]["value"] > 0


def test_folders_that_do_not_fit_together(tmp_path):
    from omfuse.acl import batches

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(UsageError, match=r"hold no \.npy"):
        batches.items_of_folders({"a": tmp_path / "a"})
    np.save(tmp_path / "a" / "x.npy", np.zeros(1))
    np.save(tmp_path / "a" / "y.npy", np.zeros(1))
    np.save(tmp_path / "b" / "x.npy", np.zeros(1))
    with pytest.raises(UsageError) as caught:
        batches.items_of_folders({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert caught.value.message == "input 'b' lacks y"
    with pytest.raises(UsageError) as caught:
        batches.split_done(tmp_path, [batches.Item("a b"), batches.Item("a_b")])
    assert caught.value.code == "name-clash"


def test_bench_reports_parts_and_a_ratio(folder, capsys, device):
    line = ("bench", "static.om", "batch.om", *SIM, "--seconds", 0, "--runs", 30)
    assert call(*line, "--dim", "batch=2", "--plot", "times.png", "--json") == 0
    said = document(capsys)
    assert said["schema"] == "omfuse.bench/1"
    for row in said["models"]:
        assert row["simulated"] is True
        assert row["latency"]["count"] == 30
        order = [row["latency"][n] for n in ("min", "p50", "p90", "p99", "max")]
        assert order == sorted(order)
        assert set(row["parts"]) == {"h2d", "compute", "d2h"}
        assert row["first"] > 0
        assert row["memory_peak"] > 0
    assert said["ratio"]["low"] <= said["ratio"]["value"] <= said["ratio"]["high"]
    # A model's memory is its own: the other one, which is loaded as well, does not count.
    for model, row, dims in zip(
        ("static.om", "batch.om"), said["models"], ((), ("--dim", "batch=2")), strict=True
    ):
        assert call("bench", model, *SIM, "--seconds", 0, "--runs", 2, *dims, "--json") == 0
        (alone,) = document(capsys)["models"]
        assert alone["memory_peak"] == row["memory_peak"]
    assert (folder / "times.png").read_bytes().startswith(b"\x89PNG")


def test_measuring_takes_turns():
    from omfuse.acl.bench import Plan, Subject, measure, ratio, summary

    order = []
    a = Subject("a", lambda: order.append("a"))
    b = Subject("b", lambda: order.append("b"))
    measure([a, b], Plan(2, 0, 4, 0))
    assert "".join(order) == "ab" + "abba" + "abbaabba"
    assert len(a.seconds) == len(b.seconds) == 4
    a.seconds, b.seconds = [2.0, 2.1, 1.9], [1.0, 1.0, 1.1]
    found = ratio(a, b)
    assert found["value"] == 2.0
    assert 1.7 < found["low"] <= 2.0 <= found["high"] < 2.2
    a.divided = {"h2d": [0.9] * 3, "compute": [0.5] * 3, "d2h": [0.1] * 3}
    said = summary(a)
    assert any("copying inputs" in hint for hint in said["hints"])
    assert any("p99 of 3 runs" in warning for warning in said["warnings"])
    a.seconds = [1.0, 3.0]
    assert any("unstable" in warning for warning in summary(a)["warnings"])


def test_host_and_simulation_are_not_set_against_each_other(folder, capsys, device):
    import onnx
    from sim_files import sum_model

    onnx.save(sum_model(2), folder / "m.onnx")
    line = ("bench", "m.onnx", "static.om", *SIM, "--seconds", 0, "--runs", 3, "--json")
    assert call(*line) == 0
    assert document(capsys)["ratio"] is None
