"""The memory of feature maps: parts never overlap, and are used again."""

import gc
import os
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggnet.accel import arena
from vggnet.accel.arena import LEAST, STEP, Arena
from vggnet.accel.buffers import feature_maps, floats

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory is malloc's")

STEPS = 20  # in the range of these tests


def address(part):
    """Where a part lies."""
    return torch.frombuffer(part, dtype=torch.uint8).data_ptr()


@given(st.lists(st.one_of(st.integers(1, 8), st.floats(0, 1, exclude_max=True)), max_size=40))
def test_parts_are_apart_and_come_back(moves):
    """Oracle: a list of all bytes and who owns them: a part is given if, and only if, a gap is large enough."""
    whole = Arena(STEPS * STEP)
    owners = [None] * STEPS
    parts, names = {}, 0
    first = None
    for move in moves:
        if isinstance(move, int):
            part = whole.take(move * STEP - 1)
            gaps = "".join("." if owner is None else "x" for owner in owners)
            assert (part is not None) == ("." * move in gaps)
            if part is not None:
                first = address(part) if first is None else first  # the lowest of all: nothing was taken before it
                place = (address(part) - first) // STEP
                assert owners[place : place + move] == [None] * move
                names += 1
                owners[place : place + move] = [names] * move
                parts[names] = part
            del part
        elif parts:
            name = list(parts)[int(move * len(parts))]
            del parts[name]
            owners = [None if owner == name else owner for owner in owners]
    parts.clear()
    assert whole.take(STEPS * STEP) is not None


def test_a_tensor_keeps_its_part():
    """Oracle: values, after all that could be taken was overwritten."""
    whole = Arena(4 * STEP)
    kept = torch.frombuffer(whole.take(STEP), dtype=torch.uint8)
    kept.fill_(7)
    view = kept[10:20]
    del kept
    gc.collect()
    others = []
    while (part := whole.take(STEP)) is not None:
        torch.frombuffer(part, dtype=torch.uint8).fill_(1)
        others.append(part)
    assert len(others) == 3
    assert view.tolist() == [7] * 10


def test_feature_maps_are_used_again():
    """Oracle: the address; strides and type as PyTorch's own channels-last tensor has them."""
    shape = (2, 64, 128, 64)
    maps = feature_maps(*shape)
    expected = torch.empty(shape, memory_format=torch.channels_last)
    assert (maps.shape, maps.stride(), maps.dtype) == (expected.shape, expected.stride(), expected.dtype)
    assert not maps._is_view()
    before = maps.data_ptr()
    del maps
    assert feature_maps(*shape).data_ptr() == before
    assert feature_maps(*shape, dtype=torch.bfloat16).element_size() == 2


def test_little_memory_is_left_to_malloc():
    """Oracle: the contract."""
    assert arena.take(LEAST - 1) is None
    assert arena.kept(LEAST - 1) is None
    assert floats(3, 5).shape == (3, 5)


def test_without_room_for_a_range_of_addresses(monkeypatch):
    """Oracle: tensors as ever."""

    def refuse(*_):
        raise OSError("no room")

    monkeypatch.setattr(arena, "Arena", refuse)
    arena._arena.cache_clear()
    try:
        assert feature_maps(1, 64, 128, 64).shape == (1, 64, 128, 64)
    finally:
        arena._arena.cache_clear()


def test_a_forked_process_has_a_range_of_its_own():
    """Oracle: what a child writes is not seen by its parent, and it does not wait for a lock that its parent held."""
    ours = arena._arena(os.getpid())
    with ours._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if feature_maps(1, 64, 128, 64) is not None else 1)
        _, status = os.waitpid(child, 0)
    assert status == 0
