"""What stacks of convolutions see."""

import pytest
import torch

from vggnet.errors import ConfigError
from vggnet.interpret.receptive_field import PAIRS, Field, Stack, gradient_map, receptive_field
from vggnet.models.vgg import Architecture, empty


@pytest.mark.parametrize(
    ("kernel", "depth", "expected"), [(5, 1, 5), (3, 2, 5), (7, 1, 7), (3, 3, 7), (11, 1, 11), (3, 5, 11), (1, 3, 1)]
)
def test_size_of_a_stack(kernel, depth, expected):
    """Oracle: by hand, 1 + depth (kernel - 1); and the pixels where the gradient of a real network is not zero."""
    stack = Stack(kernel, depth)
    strength = gradient_map(stack, size=(depth * kernel + 2) | 1)  # larger than the field, so no edge cuts it off
    rows, columns = (strength != 0).nonzero(as_tuple=True)
    assert stack.size == expected
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == expected


def test_field_by_hand():
    """Oracle: by hand: a 3x3 of stride 2 and padding 1, then a 2x2 pool: output 1 sees pixels 3 to 7."""
    field = Field().after(3, stride=2, padding=1).after(2, stride=2)
    assert field == Field(start=-1, step=4, size=5)
    assert [field.start + field.step + pixel for pixel in range(field.size)] == [3, 4, 5, 6, 7]


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


def test_an_even_map_has_no_middle():
    """Oracle: the message names the size."""
    with pytest.raises(ConfigError, match="10"):
        gradient_map(Stack(3, 1), size=10)


def test_a_layer_that_does_not_exist():
    """Oracle: the message names it and those that exist."""
    with pytest.raises(ConfigError, match=r"'conv9_1'.*conv1_1"):
        receptive_field(empty(Architecture(name="vgg11")), "conv9_1")
