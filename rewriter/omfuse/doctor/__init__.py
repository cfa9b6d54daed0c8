"""What this machine can do, and how to make it do more."""

from omfuse.doctor.finding import Finding
from omfuse.doctor.run import diagnose

__all__ = ["Finding", "diagnose"]
