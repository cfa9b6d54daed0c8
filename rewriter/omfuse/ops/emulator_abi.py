"""The structs of ``custom_ops/emulation/omfuse_emulation.h`` for ctypes, field by field."""

from __future__ import annotations

from ctypes import Structure, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p

U64, U32, I64, I32, F32 = c_uint64, c_uint32, c_int64, c_int32, c_float


class Problem(Structure):
    """``omfuse::Problem``: one call of the operator."""

    _fields_ = [
        *((n, I64) for n in "batch heads kv_heads q_len kv_len depth value_depth".split()),
        ("bias_dims", I64 * 4),
        ("mask_dims", I64 * 4),
        ("window_left", I64),
        ("window_right", I64),
        *((n, I32) for n in "dtype layout out_layout bias_dtype mask_present sink_dtype".split()),
        *((n, I32) for n in "kv_lengths_present lse_present causal masked_rows".split()),
        ("inner_precision", I32),
        ("scale", F32),
        ("softcap", F32),
    ]


class Platform(Structure):
    """``omfuse::Platform``: memory in bytes and cores of one chip."""

    _fields_ = [
        *((n, U64) for n in "ub_bytes l1_bytes l0a_bytes l0b_bytes l0c_bytes l2_bytes".split()),
        ("cube_cores", U32),
        ("vector_cores", U32),
        ("split", U32),
    ]


class Plan(Structure):
    """``omfuse::Plan``."""

    _fields_ = [("tiling_key", U64), ("workspace_bytes", U64), ("block_dim", U32)]


class Tensors(Structure):
    """``OmfuseTensors``: host addresses, None where absent."""

    _fields_ = [
        *((n, c_void_p) for n in "query key value attn_bias attn_mask sink".split()),
        *((n, c_void_p) for n in "kv_lengths output lse".split()),
    ]


class Options(Structure):
    """``OmfuseOptions``."""

    _fields_ = [
        ("seed", U64),
        ("schedule", I32),
        ("checks", I32),
        ("count_only", I32),
        ("reserved", I32),
    ]


class Counters(Structure):
    """``OmfuseCounters``: bytes, instructions and modelled cycles of one run."""

    _fields_ = [
        *((n, U64) for n in "tensor_read tensor_write workspace_read workspace_write".split()),
        *((n, U64) for n in "l1_to_l0a l1_to_l0b l0c_out ub_to_l1".split()),
        *((n, U64) for n in "gm_to_l1 gm_to_ub ub_to_gm".split()),
        ("busy", U64 * 7),
        ("instructions", U64 * 7),
        ("cube_macs", U64),
        ("cycles", U64),
        ("critical", U64 * 7),
        ("cube_cores", U32),
        ("vector_cores", U32),
        ("held", U64 * 5),
    ]


class Tiling(Structure):
    """``omfuse::FlashAttentionTiling``: what the host decides and the kernel obeys."""

    _fields_ = [
        ("qBatchStride", U64),
        ("qHeadStride", U64),
        ("kBatchStride", U64),
        ("kHeadStride", U64),
        ("vBatchStride", U64),
        ("vHeadStride", U64),
        ("oBatchStride", U64),
        ("oHeadStride", U64),
        ("biasBatchStride", U64),
        ("biasHeadStride", U64),
        ("biasRowStride", U64),
        ("maskBatchStride", U64),
        ("maskHeadStride", U64),
        ("maskRowStride", U64),
        ("coreBytes", U64),
        ("scoresOffset", U64),
        ("probsOffset", U64),
        ("partsOffset", U64),
        ("scoresSlot", U64),
        ("probsSlot", U64),
        ("partsSlot", U64),
        ("splitOffset", U64),
        ("splitBytes", U64),
        ("qRowStride", U32),
        ("kRowStride", U32),
        ("vRowStride", U32),
        ("oRowStride", U32),
        ("batch", U32),
        ("heads", U32),
        ("kvHeads", U32),
        ("group", U32),
        ("qLen", U32),
        ("kvLen", U32),
        ("depth", U32),
        ("valueDepth", U32),
        ("depthPad", U32),
        ("valuePad", U32),
        ("scale", F32),
        ("softcap", F32),
        ("causal", U32),
        ("maskedRows", U32),
        ("windowLeft", I32),
        ("windowRight", I32),
        ("bias", U32),
        ("mask", U32),
        ("sink", U32),
        ("kvLengths", U32),
        ("lse", U32),
        ("innerHalf", U32),
        ("blockRows", U32),
        ("stepColumns", U32),
        ("groupRows", U32),
        ("chunkRows", U32),
        ("packed", U32),
        ("unitRows", U32),
        ("unitHeads", U32),
        ("rowBlocks", U32),
        ("tasks", U32),
        ("cores", U32),
        ("splits", U32),
        ("splitColumns", U32),
        ("skipBlocks", U32),
        ("panelKeys", U32),
        ("loadKeys", U32),
        ("alternate", U32),
        ("biasPerRow", U32),
        ("maskPerRow", U32),
        ("taskRun", U32),
    ]
