from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep golden results of tests out of the user's cache."""
    monkeypatch.setenv("OMFUSE_CACHE", str(tmp_path_factory.mktemp("golden")))
