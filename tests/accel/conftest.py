"""Two threads, and choices of convolutions in a folder of each test's own."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    pass


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
