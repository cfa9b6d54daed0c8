"""Rewrite, compile and compare in one go, resumable, with one page that tells how it went."""

from omfuse.pipeline.run import PipelineResult, run_pipeline
from omfuse.pipeline.settings import Settings

__all__ = ["PipelineResult", "Settings", "run_pipeline"]
