"""What stacks of convolutions see."""

import pytest
import torch

from vggnet.errors import ConfigError
from vggnet.interpret.receptive_field import PAIRS, Stack, extent, gradient_map, receptive_field


@pytest.mark.parametrize(
    ("kernel", "depth", "expected"), [(5, 1, 5), (3, 2, 5), (7, 1, 7), (3, 3, 7), (11, 1, 11), (3, 5, 11), (1, 3, 1)]
)
def test_how_far_a_stack_sees(kernel, depth, expected):
    """Oracle: by hand, 1 + depth (kernel - 1)."""
    assert receptive_field(Stack(kernel, depth)) == expected


def test_pairs_of_the_paper():
    """Oracle: section 2.3, 27 weights against 49; and 18 against 25."""
    assert [(one.weights, many.weights) for one, many in PAIRS] == [(25, 18), (49, 27)]
    assert [(one.label, many.label) for one, many in PAIRS] == [("one 5x5", "two 3x3"), ("one 7x7", "three 3x3")]


def test_a_stack_looks_at_the_middle_most():
    """Oracle: Luo et al. (2016): paths to the middle are more; a single convolution has one path to every pixel."""
    one, three = gradient_map(Stack(7, 1)), gradient_map(Stack(3, 3))
    rim, core = (slice(2, 9), slice(2, 9)), (slice(4, 7), slice(4, 7))
    for strength, least, most in ((one, 0.8, 1.25), (three, 1.5, 10)):
        around = (strength[rim].sum() - strength[core].sum()) / (49 - 9)
        assert least < strength[core].mean() / around < most
        assert strength.max() == 1


def test_maps_are_the_same_each_time():
    """Oracle: two calls; the global generator is not touched, and gradients are asked for even where they are off."""
    before = torch.get_rng_state()
    with torch.no_grad():
        first = gradient_map(Stack(3, 2))
    assert torch.equal(first, gradient_map(Stack(3, 2)))
    assert torch.equal(before, torch.get_rng_state())


def test_extent_of_a_typed_map():
    """Oracle: by hand; the larger of height and breadth."""
    strength = torch.zeros(9, 9)
    strength[2, 3] = strength[4, 7] = 0.1
    assert extent(strength) == 5


def test_an_even_map_has_no_middle():
    """Oracle: the message names the size."""
    with pytest.raises(ConfigError, match="10"):
        gradient_map(Stack(3, 1), size=10)
