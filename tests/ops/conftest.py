from tests.ops.fake_cann import tree

__all__ = ["tree"]
