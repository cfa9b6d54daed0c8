"""Custom operators: their sources for CANN, their contracts, and the host emulation."""
