"""A fabricated operator package, so that the simulated ATC finds FlashAttention as ATC would.

It has the layout of an installed vendor package and says what the package built from
``custom_ops/flash_attention`` says: the same keys, chips and dtypes.  Its libraries are texts that
only the simulated ATC takes for libraries.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

from omfuse.atc.config import load_soc, soc_names
from omfuse.fuse.contract import DOMAIN, DOMAIN_VERSION, INPUTS, OP_TYPE

VENDOR = "omfuse_simulated"
GE_TYPE = OP_TYPE
LIBRARY_MARK = b"omfuse simulated library\n"
OPSETS = range(8, 27)
CHIPS = ("ascend310p", "ascend910b", "ascend910_93")


def write_package(folder: Path) -> Path:
    """Write the package below a folder and return its root."""
    root = folder / VENDOR
    arch = platform.machine()
    domains = [f"{DOMAIN}::{DOMAIN_VERSION}", *(f"ai.onnx::{version}" for version in OPSETS)]
    keys = "\n".join(f"{domain}::{OP_TYPE}" for domain in domains)
    _library(root / "framework/onnx/libcust_onnx_parsers.so", f"{GE_TYPE}\n{keys}\n")
    _library(root / f"op_proto/lib/linux/{arch}/libcust_opsproto_rt2.0.so", f"{GE_TYPE}\n")
    tiling = f"op_impl/ai_core/tbe/op_tiling/lib/linux/{arch}/libcust_opmaster_rt2.0.so"
    _library(root / tiling, f"{GE_TYPE}\n")
    for name in soc_names():
        soc = load_soc(name)
        if soc.short not in CHIPS:
            continue
        path = root / f"op_impl/ai_core/tbe/config/{soc.short}/aic-{soc.short}-ops-info.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        dtypes = ["float16"] + (["bfloat16"] if soc.bf16 else [])
        inputs = {
            f"input{index}": {"name": name, "dtype": ",".join(dtypes)}
            for index, name in enumerate(INPUTS[:3])
        }
        path.write_text(json.dumps({GE_TYPE: inputs}, indent=1) + "\n", "utf-8")
    (root / "version.info").write_text("compiler_version=7.7.0\n", "utf-8")
    return root


def _library(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(LIBRARY_MARK + text.encode())
