"""Shapes of real ATC commands for ONNX: combinations of flags and values seen in the field."""

from __future__ import annotations

import itertools

_TARGETS = ("Ascend310P3", "Ascend910B4", "Ascend310B1")
_INPUTS = {
    "image": ("NCHW", "image:1,3,224,224"),
    "text": ("ND", "input_ids:1,128;attention_mask:1,128"),
    "video": ("NCDHW", "clip:1,3,16,112,112"),
}
_EXTRAS: tuple[tuple[str, ...], ...] = (
    (),
    ("--log=debug",),
    ("--enable_small_channel=1",),
    ("--output_type=FP32",),
    ("--op_select_implmode=high_performance", "--optypelist_for_implmode=Gelu"),
    ("--op_select_implmode=high_precision", "--optypelist_for_implmode=Sigmoid"),
    ("--precision_mode=allow_mix_precision",),
    ("--precision_mode=must_keep_origin_dtype",),
    ("--precision_mode_v2=mixed_float16",),
    ("--buffer_optimize=off_optimize",),
    ("--disable_reuse_memory=1",),
    ("--out_nodes=Gemm_10:0;Add_3:1",),
    ("--out_nodes=logits;hidden", "--output_type=FP16"),
    ("--input_fp16_nodes={first}",),
    ("--external_weight=1",),
    ("--op_debug_level=3", "--debug_dir=dbg"),
    ("--core_type=AiCore", "--deterministic=1"),
)
_DYNAMIC: tuple[tuple[str, ...], ...] = (
    ("--input_format=ND", "--input_shape=x:-1,128", "--dynamic_batch_size=1,4,8"),
    ("--input_format=ND", "--input_shape=x:-1,-1;m:-1,-1", "--dynamic_dims=1,64,1,64;4,64,4,64"),
    ("--input_format=NCHW", "--input_shape=x:1,3,-1,-1", "--dynamic_image_size=224,224;448,448"),
    ("--input_format=ND", "--input_shape=x:1~8,128"),
    ("--input_format=ND", "--input_shape=x:-1,128"),
    ("--input_format=NCHW", "--input_shape=x:-1,3,-1,-1", "--log=info"),
    ("--input_format=ND", "--input_shape=x:1,3", "--input_shape_range=x:[1~8,3]"),
)


def command_shapes() -> list[list[str]]:
    """Return argument lists without model and output, each complete otherwise."""
    found = []
    for soc, (kind, extra) in itertools.product(_TARGETS[:2], itertools.product(_INPUTS, _EXTRAS)):
        layout, shape = _INPUTS[kind]
        first = shape.split(":")[0]
        found.append(
            [
                "--framework=5",
                f"--soc_version={soc}",
                f"--input_format={layout}",
                f"--input_shape={shape}",
                "--log=error",
                *(word.format(first=first) for word in extra),
            ]
        )
    for soc, dynamic in itertools.product(_TARGETS, _DYNAMIC):
        found.append(["--framework=5", f"--soc_version={soc}", *dynamic])
    return found
