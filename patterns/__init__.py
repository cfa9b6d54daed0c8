"""What attention looks like: one-op lift rules, read by ``omfuse.match``."""
