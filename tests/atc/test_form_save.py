"""The form on disk, with weights beside it or without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.atc.conftest import parse
from tests.atc.forms import P3

from omfuse.atc.form.make import FormOptions, make_form
from omfuse.atc.form.save import save_form
from omfuse.errors import ModelError


def external_model(folder: Path, location: str = "weights here.bin") -> onnx.ModelProto:
    weight = np.arange(4096, dtype=np.float32)
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[4096] x) => (float[4096] y) <float[4096] w> { y = Add(x, w) }""")
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = folder / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location=location, size_threshold=0)
    return onnx.load(str(path), load_external_data=False)


def test_external_data_lands_beside_the_form_under_a_plain_name(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    form = make_form(external_model(source), FormOptions(), P3, source)
    path = save_form(form.model, source, target)
    assert sorted(p.name for p in target.iterdir()) == ["data_0.bin", "model.onnx"]
    found = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
    np.testing.assert_array_equal(found, np.arange(4096, dtype=np.float32))
    assert (source / "weights here.bin").exists()


def test_weights_beyond_the_limit_move_out_of_the_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    external_model(source)
    model = onnx.load(str(source / "m.onnx"))
    path = save_form(model, None, target, limit=1000)
    assert path.stat().st_size < 1000
    found = numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0])
    np.testing.assert_array_equal(found, np.arange(4096, dtype=np.float32))


@pytest.mark.parametrize("location", ["missing.bin", "../outside.bin"])
def test_missing_or_foreign_external_data_is_refused(tmp_path: Path, location: str) -> None:
    source, target = tmp_path / "in", tmp_path / "work"
    source.mkdir(), target.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"\0" * 16384)
    model = external_model(source)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    with pytest.raises(ModelError) as caught:
        save_form(model, source, target)
    assert caught.value.code == "external-data"
