"""Choices of convolutions in a folder of each test's own."""

import pytest


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    pass
