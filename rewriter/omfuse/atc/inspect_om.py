"""Describe an ``.om``: the check after a compile and what ``omfuse inspect`` shows."""

from omfuse.atc.om.summary import describe_om

__all__ = ["describe_om"]
