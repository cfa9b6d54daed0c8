"""The FlashAttention operator: Ascend C sources and a numpy reference of its contract."""
