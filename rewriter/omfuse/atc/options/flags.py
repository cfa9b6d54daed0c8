"""The flags of ATC as one table: name, kind, closed value set, and the code for a bad value.

Read by the options model (which checks before ATC starts) and by the simulated ``atc`` (which
parses argv).  Only facts live here, no checks: the two sides judge on their own, so that a test
comparing them can fail.  Source: the flag definitions of graph-engine 9.2 and CANN 8.1.RC1.
"""

from __future__ import annotations

from dataclasses import dataclass

ZERO_ONE = ("0", "1")
TRUE_FALSE = ("true", "false")


@dataclass(frozen=True)
class Flag:
    """One command line flag of ATC.

    Attributes:
        name: long name without dashes, words joined by ``_``.
        kind: how ATC parses the value: ``string``, ``int`` (digits only) or ``bool``.
        group: ``io``, ``target``, ``precision``, ``build`` or ``debug``.
        values: closed set checked while the command line is parsed; empty means open.
        bad_value: ATC code for a value outside ``values``.
        default: what ATC takes when the flag is absent or empty.
        onnx: whether it serves an ONNX model in mode 0.
        since: first CANN major version that knows it, 0 for all.
        is_path: the value names a file that ATC reads.
    """

    name: str
    kind: str
    group: str
    values: tuple[str, ...] = ()
    bad_value: str = "E10001"
    default: str = ""
    onnx: bool = True
    since: int = 0
    is_path: bool = False


def _zero_one(name: str, group: str, default: str = "0", **more: object) -> Flag:
    return Flag(name, "string", group, ZERO_ONE, default=default, **more)  # type: ignore[arg-type]


_TABLE = (
    # Model, input, output
    Flag("model", "string", "io", is_path=True),
    Flag("weight", "string", "io", onnx=False, is_path=True),
    Flag("framework", "int", "io", ("0", "1", "3", "5"), "E10007", default="-1"),
    Flag("output", "string", "io"),
    Flag("mode", "int", "io", ("0", "1", "3", "5", "6", "7", "30"), default="0"),
    Flag("om", "string", "io", onnx=False, is_path=True),
    Flag("json", "string", "io", onnx=False),
    _zero_one("dump_mode", "io", bad_value="E10006", onnx=False),
    Flag("check_report", "string", "io", default="check_result.json"),
    _zero_one("display_model_info", "io", bad_value="E10006"),
    Flag("input_format", "string", "io", default="NCHW"),
    Flag("input_shape", "string", "io"),
    Flag("input_shape_range", "string", "io"),
    Flag("input_hint_shape", "string", "io"),
    Flag("dynamic_batch_size", "string", "io"),
    Flag("dynamic_image_size", "string", "io"),
    Flag("dynamic_dims", "string", "io"),
    Flag("out_nodes", "string", "io"),
    Flag("output_type", "string", "io"),
    Flag("input_fp16_nodes", "string", "io"),
    Flag("is_input_adjust_hw_layout", "string", "io"),
    Flag("is_output_adjust_hw_layout", "string", "io"),
    Flag("insert_op_conf", "string", "io", is_path=True),
    Flag("op_name_map", "string", "io", onnx=False, is_path=True),
    Flag("external_weight", "string", "io", ("0", "1", "2"), "E10006", default="0"),
    Flag("save_original_model", "string", "io", TRUE_FALSE, "E10005"),
    Flag("singleop", "string", "io", onnx=False, is_path=True),
    Flag("raw_ge_options", "string", "io", since=9),
    Flag("raw_ge_options_ignore_unsupported", "bool", "io", default="false", since=9),
    Flag("build_config", "string", "io", onnx=False, is_path=True),
    Flag("cal_conf", "string", "io", onnx=False, is_path=True),
    Flag("target", "string", "io", onnx=False),
    # Target
    Flag("soc_version", "string", "target"),
    Flag("core_type", "string", "target", ("AiCore", "VectorCore"), default="AiCore"),
    Flag("aicore_num", "string", "target"),
    Flag("virtual_type", "int", "target", ZERO_ONE, default="0"),
    Flag("host_env_os", "string", "target", ("linux", "minios")),
    Flag("host_env_cpu", "string", "target", ("x86_64", "aarch64", "arm64", "arm")),
    Flag("device_id", "string", "target", default="0"),
    # Precision
    Flag(
        "precision_mode",
        "string",
        "precision",
        (
            "force_fp16",
            "force_fp32",
            "cube_fp16in_fp32out",
            "allow_mix_precision",
            "allow_mix_precision_fp16",
            "allow_mix_precision_bf16",
            "allow_fp32_to_fp16",
            "allow_fp32_to_bf16",
            "must_keep_origin_dtype",
        ),
        default="force_fp16",
    ),
    Flag(
        "precision_mode_v2",
        "string",
        "precision",
        (
            "fp16",
            "origin",
            "cube_fp16in_fp32out",
            "mixed_float16",
            "mixed_bfloat16",
            "cube_hif8",
            "mixed_hif8",
        ),
        default="fp16",
    ),
    Flag("modify_mixlist", "string", "precision", is_path=True),
    Flag("keep_dtype", "string", "precision", is_path=True),
    Flag("customize_dtypes", "string", "precision", is_path=True),
    Flag("op_precision_mode", "string", "precision", is_path=True),
    Flag(
        "op_select_implmode",
        "string",
        "precision",
        (
            "high_precision",
            "high_performance",
            "high_precision_for_all",
            "high_performance_for_all",
        ),
        default="high_performance",
    ),
    Flag("optypelist_for_implmode", "string", "precision"),
    Flag("allow_hf32", "string", "precision", TRUE_FALSE),
    _zero_one("deterministic", "precision", bad_value="E10006"),
    Flag("deterministic_level", "int", "precision", ("0", "1", "2", "3"), default="0"),
    _zero_one("is_weight_clip", "precision", default="1"),
    _zero_one("quant_dumpable", "precision"),
    # Build and tuning
    Flag("disable_reuse_memory", "int", "build", ZERO_ONE, "E10006", default="0"),
    Flag("fusion_switch_file", "string", "build", is_path=True),
    Flag(
        "buffer_optimize",
        "string",
        "build",
        ("l1_optimize", "l2_optimize", "off_optimize"),
        default="l2_optimize",
    ),
    _zero_one("enable_small_channel", "build"),
    Flag("enable_single_stream", "string", "build", TRUE_FALSE),
    _zero_one("ac_parallel_enable", "build"),
    _zero_one("tiling_schedule_optimize", "build"),
    Flag("jit_compile", "string", "build", ("0", "1", "2"), default="1"),
    Flag("optimization_switch", "string", "build"),
    Flag("oo_level", "string", "build", ("O1", "O3"), default="O3"),
    Flag("oo_constant_folding", "string", "build", TRUE_FALSE),
    Flag("oo_dead_code_elimination", "string", "build", TRUE_FALSE),
    Flag("topo_sorting_mode", "string", "build", ("0", "1", "2", "3"), default="1"),
    Flag("export_compile_stat", "string", "build", ("0", "1", "2"), default="1"),
    Flag("multi_stream_parallel_mode", "string", "build", since=9),
    Flag("static_model_ops_lower_limit", "string", "build", default="4"),
    Flag("h2d_overlapped_with_compute", "string", "build", since=9),
    Flag("cluster_config", "string", "build", onnx=False, is_path=True),
    Flag("hccl_sub_comm_config", "string", "build", onnx=False, is_path=True),
    Flag(
        "op_compiler_cache_mode",
        "string",
        "build",
        ("disable", "enable", "force"),
        default="disable",
    ),
    Flag("op_compiler_cache_dir", "string", "build"),
    Flag("mdl_bank_path", "string", "build", is_path=True),
    Flag("op_bank_path", "string", "build", is_path=True),
    Flag("auto_tune_mode", "string", "build"),
    Flag("compress_weight_conf", "string", "build", is_path=True),
    Flag("enable_compress_weight", "string", "build", TRUE_FALSE, default="false"),
    Flag("compression_optimize_conf", "string", "build", is_path=True),
    Flag("sparsity", "int", "build", ZERO_ONE, "E10006", default="0"),
    Flag("enable_attr_compression", "string", "build", TRUE_FALSE, default="true", since=9),
    Flag(
        "shape_generalized_build_mode",
        "string",
        "build",
        ("shape_generalized", "shape_precise"),
    ),
    Flag("enable_scope_fusion_passes", "string", "build", onnx=False),
    # Debug
    Flag(
        "log",
        "string",
        "debug",
        ("debug", "info", "warning", "error", "null"),
        "E10010",
        default="null",
    ),
    Flag("op_debug_level", "int", "debug", ("0", "1", "2", "3", "4"), default="0"),
    Flag("op_debug_config", "string", "debug", is_path=True),
    Flag("debug_dir", "string", "debug", default="./kernel_meta"),
    _zero_one("status_check", "debug", bad_value="E10006"),
    _zero_one("atomic_clean_policy", "debug", bad_value="E10006"),
    Flag("help", "bool", "debug", onnx=False),
)

FLAGS: dict[str, Flag] = {flag.name: flag for flag in _TABLE}

# The driver decides these itself; a user's `--set` must not.
DRIVER_FLAGS = ("model", "framework", "output", "soc_version", "mode")
# Needs an argument of its own on the ONNX path, otherwise ATC stops.
REQUIRED = ("model", "framework", "output", "soc_version")
