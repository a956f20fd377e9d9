"""What holds for every test."""

import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: tests share their cores with other work


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Choices of convolutions in a folder of the test's own."""
    from vggnet.accel.autotuning import autotuner

    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    autotuner.cache_clear()
    yield
    autotuner.cache_clear()
