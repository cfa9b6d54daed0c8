"""Run .om models through ACL: a ctypes binding and a session.

Needs numpy and the standard library alone, from Python 3.8 on::

    from omfuse.acl import open_session

    with open_session("model.om", device=0) as session:
        outputs = session.run({"input_ids": ids, "attention_mask": mask})
"""

from __future__ import annotations

from omfuse.acl.opening import open_om, open_session

__all__ = ["open_om", "open_session"]
