"""Why a block is not fused: a stable code, a sentence, and the node understood last."""

from __future__ import annotations


class Declined(Exception):  # noqa: N818  (control flow of the matcher, not an error)
    """One line of reasoning ended.

    Args:
        code: stable kebab-case identifier.
        reason: a sentence that a model owner understands.
        hint: what to change in the model or export, if anything helps.
        attention: false when the block is proven to be something other than attention.
    """

    def __init__(self, code: str, reason: str, hint: str = "", *, attention: bool = True) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hint = hint
        self.attention = attention
        self.depth = 0
        self.node = ""
