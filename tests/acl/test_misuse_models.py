"""What the simulated library says to misuse of models, datasets and descriptions."""

import ctypes

from raw import Raw, dims

NOWHERE = 0x1234


def test_loading(raw, tmp_path, om):
    found = ctypes.c_uint32()
    assert raw.aclmdlLoadFromFile(raw.path, ctypes.byref(found)) == 145001
    assert raw.aclInit(None) == 0
    assert raw.aclmdlLoadFromFile(raw.path, ctypes.byref(found)) == 107002
    assert raw.aclrtSetDevice(0) == 0
    assert raw.aclmdlLoadFromFile(None, ctypes.byref(found)) == 145002
    assert raw.aclmdlLoadFromFile(b"/nowhere/m.om", ctypes.byref(found)) == 145002
    assert raw.aclmdlLoadFromFile(str(tmp_path).encode(), ctypes.byref(found)) == 145002
    data = om("static").read_bytes()
    for bad in (data[:100], b"XXXX" + data[4:], data[:-1], data + b"x"):
        assert raw.aclmdlLoadFromMem(bad, len(bad), ctypes.byref(found)) == 145006
    work, weight = ctypes.c_size_t(), ctypes.c_size_t()
    assert raw.aclmdlQuerySize(raw.path, ctypes.byref(work), ctypes.byref(weight)) == 0
    assert (work.value, weight.value) == (512, 64)
    dynamic = str(om("dynamic")).encode()
    assert raw.aclmdlQuerySize(dynamic, ctypes.byref(work), ctypes.byref(weight)) == 145000
    a, b = raw.malloc(512), raw.malloc(64)
    code = raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(found), a, 511, b, 64)
    assert code == 145000
    code = raw.aclmdlLoadFromFileWithMem(raw.path, ctypes.byref(found), a, 512, b, 64)
    assert code == 0
    assert raw.aclmdlUnload(found.value) == 0
    assert raw.aclmdlUnload(found.value) == 145003
    assert raw.aclmdlUnload(99999) == 145003
    assert raw.aclrtFree(a) == 0
    assert raw.aclrtFree(b) == 0
    raw.stop()


def test_soc_mismatch(on, device):
    device.configure(soc="Ascend910B3")
    assert on.aclmdlLoadFromFile(on.path, ctypes.byref(ctypes.c_uint32())) == 545001
    assert b"model is for Ascend310P3" in on.aclGetRecentErrMsg()
    device.configure(soc="Ascend310P3")
    assert on.aclmdlUnload(on.load()) == 0


def test_executing(on, device):
    model = on.load()
    inputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    outputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    assert on.aclmdlExecute(model, inputs, outputs) == 0
    assert on.aclmdlExecute(model + 1, inputs, outputs) == 145003
    assert on.aclmdlExecute(model, None, outputs) == 100000
    few = on.dataset((on.malloc(32), 32))
    assert on.aclmdlExecute(model, few, outputs) == 100000
    assert on.aclmdlExecute(model, inputs, few) == 100000
    null = on.dataset((None, 0), (None, 0))
    assert on.aclmdlExecute(model, null, outputs) == 100000
    # A run with outputs of nobody: the library allocates, also when the run fails.
    assert on.aclmdlExecute(model, inputs, null) == 0
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    on.drop(null)
    null = on.dataset((None, 0), (None, 0))
    device.fault("aclmdlExecute", 1, 507011, "EZ9999")
    assert on.aclmdlExecute(model, inputs, null) == 507011
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    on.drop(null)
    null = on.dataset((None, 0), (None, 0))
    config = on.aclmdlCreateExecConfigHandle()
    device.fault("aclmdlExecuteV2", 1, 507011, "EZ9999")
    assert on.aclmdlExecuteV2(model, inputs, null, None, config) == 507011
    assert on.aclGetDataBufferAddr(on.aclmdlGetDatasetBuffer(null, 0))
    assert on.aclmdlExecuteV2(model, inputs, null, None, None) == 100000
    assert on.aclmdlDestroyExecConfigHandle(config) == 0
    for dataset in (inputs, outputs, few, null):
        on.drop(dataset)
    assert on.aclmdlUnload(model) == 0
    assert on.aclmdlExecute(model, None, None) == 145003


def test_executing_later_with_a_configuration(on):
    model, stream = on.load(), on.pointer("aclrtCreateStream")
    inputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    outputs = on.dataset((on.malloc(32), 32), (on.malloc(32), 32))
    config = on.aclmdlCreateExecConfigHandle()
    assert on.aclmdlExecuteAsyncV2(model, inputs, outputs, stream, None) == 100000
    assert on.aclmdlExecuteAsyncV2(model, inputs, outputs, stream, config) == 0
    assert on.aclrtSynchronizeStream(stream) == 0
    assert on.aclmdlDestroyExecConfigHandle(config) == on.aclrtDestroyStream(stream) == 0
    on.drop(inputs)
    on.drop(outputs)
    assert on.aclmdlUnload(model) == 0


def test_short_inputs(device, tmp_path):
    """The real check is one-sided and generous by 64 bytes."""
    from sim_files import gear_payload, write

    raw = Raw(device, str(write(tmp_path / "m.om", gear_payload("dims"))))
    raw.start()
    model = raw.load()
    inputs = raw.dataset((raw.malloc(32), 32), (raw.malloc(128), 128), (raw.malloc(32), 32))
    outputs = raw.dataset((raw.malloc(128), 128), (raw.malloc(128), 128))
    gear = dims(4, 8, 4, 8)
    for code in (145000, 500002):
        device.configure(short_input_code=code)
        assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(gear)) == 0
        assert raw.aclmdlExecute(model, inputs, outputs) == code
        assert b"E13025" in raw.aclGetRecentErrMsg()
    raw.drop(inputs)
    raw.drop(outputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_gears(device, om):
    raw = Raw(device, str(om("batch")))
    raw.start()
    model = raw.load()
    blocks = [(raw.malloc(64), 64) for _ in range(2)]
    inputs = raw.dataset(*blocks, (raw.malloc(8), 8))
    outputs = raw.dataset((raw.malloc(64), 64), (raw.malloc(64), 64))
    assert raw.aclmdlExecute(model, inputs, outputs) == 145000  # no gear set
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 0) == 100000
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 3) == 145013
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 0, 2) == 100000
    assert raw.aclmdlSetDynamicBatchSize(99, inputs, 2, 2) == 145003
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 2) == 0
    assert raw.aclmdlExecute(model, inputs, outputs) == 0
    assert raw.aclmdlExecute(model, inputs, outputs) == 145000  # set it before every run
    small = raw.dataset(*[(raw.malloc(64), 64) for _ in range(2)], (raw.malloc(4), 4))
    assert raw.aclmdlSetDynamicBatchSize(model, small, 2, 2) == 145012
    null = raw.dataset(*[(raw.malloc(64), 64) for _ in range(2)], (None, 0))
    assert raw.aclmdlSetDynamicBatchSize(model, null, 2, 2) == 100000
    desc = raw.aclmdlCreateDesc()
    assert raw.aclmdlGetDesc(desc, model) == 0
    count = ctypes.c_size_t()
    assert raw.aclmdlGetInputDynamicGearCount(desc, 0, ctypes.byref(count)) == 100000
    assert raw.aclmdlDestroyDesc(desc) == 0
    for dataset in (inputs, outputs, small, null):
        raw.drop(dataset)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_static_models_and_wrong_dims_have_no_gear(device, om):
    raw = Raw(device, str(om("static")))
    raw.start()
    model = raw.load()
    inputs = raw.dataset(*[(raw.malloc(32), 32) for _ in range(3)])
    assert raw.aclmdlSetDynamicBatchSize(model, inputs, 2, 2) == 145013
    assert raw.aclmdlUnload(model) == 0
    raw.path = str(om("dims")).encode()
    model = raw.load()
    wrong, none = dims(1, 4, 1), dims()
    assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(wrong)) == 145012
    assert raw.aclmdlSetInputDynamicDims(model, inputs, 2, ctypes.byref(none)) == 100000
    raw.drop(inputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_dynamic_models(device, om):
    raw = Raw(device, str(om("dynamic")))
    raw.start()
    model = raw.load()
    desc = raw.aclmdlCreateDesc()
    raw.aclmdlGetDesc(desc, model)
    shape = dims()
    assert raw.aclmdlGetCurOutputDims(desc, 0, ctypes.byref(shape)) == 200001
    assert raw.aclmdlDestroyDesc(desc) == 0
    inputs = raw.dataset(*[(raw.malloc(512), 512) for _ in range(2)])
    outputs = raw.dataset((raw.malloc(8), 8), (None, 0))

    def give(*sizes):
        for index in range(2):
            made = raw.aclCreateTensorDesc(0, len(sizes), (ctypes.c_int64 * 2)(*sizes), 2)
            assert raw.aclmdlSetDatasetTensorDesc(inputs, made, index) == 0
            raw.aclDestroyTensorDesc(made)  # copied

    give(9, 4)
    assert raw.aclmdlExecute(model, inputs, outputs) == 100000
    give(2, 4)
    assert raw.aclmdlExecute(model, inputs, outputs) == 500002
    assert b"E13031" in raw.aclGetRecentErrMsg()
    buffer = raw.aclmdlGetDatasetBuffer(outputs, 0)
    raw.aclrtFree(raw.aclGetDataBufferAddr(buffer))
    raw.aclUpdateDataBuffer(buffer, None, 0)
    assert raw.aclmdlExecute(model, inputs, outputs) == 0
    made = raw.aclmdlGetDatasetTensorDesc(outputs, 0)
    assert raw.aclGetTensorDescNumDims(made) == 2
    assert raw.aclmdlSetDatasetTensorDesc(inputs, None, 5) == 100000
    raw.drop(inputs)
    raw.drop(outputs)
    assert raw.aclmdlUnload(model) == 0
    raw.stop()


def test_dump(raw):
    assert raw.aclmdlInitDump() == 100001
    raw.start()
    assert raw.aclmdlInitDump() == 0
    assert raw.aclmdlInitDump() == 100044
    assert raw.aclmdlFinalizeDump() == 0
    assert raw.aclmdlFinalizeDump() == 100045
    raw.stop()


def test_dump_of_the_init_configuration(raw, tmp_path):
    path = tmp_path / "acl.json"
    path.write_text('{"dump": {"dump_path": "."}}')
    assert raw.aclInit(str(path).encode()) == 0
    assert raw.aclmdlInitDump() == 100044
    assert raw.aclFinalize() == 0


def test_data_buffers(on):
    made = on.aclCreateDataBuffer(None, 0)
    assert made
    assert on.aclGetDataBufferAddr(made) is None
    assert on.aclDestroyDataBuffer(None) == 100000
    assert on.aclUpdateDataBuffer(None, None, 0) == 100000
    assert on.aclDestroyDataBuffer(made) == 0
    assert on.aclDestroyDataBuffer(made) != 0


def test_null_pointers_for_results_are_refused(on):
    stream, event = on.pointer("aclrtCreateStream"), on.pointer("aclrtCreateEvent")
    desc, size = on.aclmdlCreateDesc(), ctypes.byref(ctypes.c_size_t())
    calls = (
        ("aclrtCreateStream", None), ("aclrtCreateStreamWithConfig", None, 0, 0),
        ("aclrtCreateEvent", None), ("aclrtCreateEventExWithFlag", None, 8),
        ("aclrtStreamQuery", stream, None), ("aclrtQueryEventStatus", event, None),
        ("aclrtEventElapsedTime", None, event, event), ("aclrtGetVersion", None, None, None),
        ("aclrtGetDevice", None), ("aclrtGetDeviceCount", None), ("aclrtGetRunMode", None),
        ("aclrtGetCurrentContext", None), ("aclrtGetMemInfo", 1, None, size),
        ("aclmdlQuerySize", on.path, None, size), ("aclmdlQuerySizeFromMem", b"x", 1, size, None),
        ("aclmdlGetInputDimsRange", desc, 0, None),
        ("aclmdlGetInputIndexByName", desc, None, size),
        ("aclmdlGetOutputIndexByName", desc, b"x", None),
    )  # fmt: skip
    for name, *arguments in calls:
        assert getattr(on, name)(*arguments) == 100000, name
        assert b"must not be null" in on.aclGetRecentErrMsg()
    assert on.aclmdlDestroyDesc(desc) == on.aclrtDestroyEvent(event) == 0
    assert on.aclrtDestroyStream(stream) == 0


def test_descriptions_of_what_is_not_there(on):
    desc = on.aclmdlCreateDesc()
    assert on.aclmdlGetDesc(desc, 12345) == 145003
    model = on.load()
    assert on.aclmdlGetDesc(desc, model) == 0
    for index in (2, 99, 2**63):
        assert on.aclmdlGetInputNameByIndex(desc, index) == b""
        assert on.aclmdlGetOutputNameByIndex(desc, index) == b""
        assert on.aclmdlGetInputSizeByIndex(desc, index) == 0
        assert on.aclmdlGetOutputSizeByIndex(desc, index) == 0
        assert on.aclmdlGetInputDataType(desc, index) == -1
        assert on.aclmdlGetOutputDataType(desc, index) == -1
        assert on.aclmdlGetInputFormat(desc, index) == -1
        assert on.aclmdlGetInputDims(desc, index, ctypes.byref(dims())) != 0
    assert on.aclmdlUnload(model) == 0
    assert on.aclmdlDestroyDesc(desc) == 0
