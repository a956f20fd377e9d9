"""Choices of convolutions in a folder of the test's own."""

import pytest

from vggnet.conv3x3 import choice


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    choice.choices.cache_clear()
    yield
    choice.choices.cache_clear()
