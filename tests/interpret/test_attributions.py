import pytest
import torch

from vggnet.errors import ConfigError
from vggnet.interpret.attributions import integrated_gradients, num_windows, occlusion


def test_integrated_gradients_are_complete(network, image):
    """Oracle: the axiom of completeness: the sum is the difference of both logits; 256 steps come within 1 %."""
    network.eval()
    seen = []
    values, rise, delta = integrated_gradients(network, image, 1, steps=256, seen=seen.append)
    with torch.no_grad():
        difference = (network(image) - network(torch.zeros_like(image)))[0, 1].item()
    assert values.shape == image.shape[2:]
    assert rise == pytest.approx(difference, rel=1e-4)
    assert values.sum().item() == pytest.approx(difference, rel=0.01)
    assert delta == pytest.approx(values.sum().item() - difference, abs=1e-4)
    assert sum(seen) == 256


def test_integrated_gradients_of_a_square(network, image):
    """Oracle: by hand: of sum(x^2) the integral of the gradient 2 a x over a, times x, is x^2."""
    network.forward = lambda images: images.square().sum((1, 2, 3)).unsqueeze(1)
    values, _, delta = integrated_gradients(network, image, 0, steps=4, seen=lambda count: None)
    torch.testing.assert_close(values, image[0].square().sum(0))
    assert abs(delta) < 1e-2


@pytest.mark.parametrize(("window", "stride"), [(9, 9), (12, 5), (36, 36)])
def test_occlusion_is_what_a_loop_finds(network, image, window, stride):
    """Oracle: each square hidden by itself; a pixel has the mean of those over it. The last reach over the edge."""
    network.eval()
    size, seen = image.shape[-1], []
    found = occlusion(network, image, 2, window=window, stride=stride, seen=seen.append)
    total, count = torch.zeros(size, size), torch.zeros(size, size)
    starts = [*range(0, size - window, stride), -(-(size - window) // stride) * stride]
    with torch.no_grad():
        whole = network(image)[0, 2]
        for top in starts:
            for left in starts:
                hidden = image.clone()
                hidden[:, :, top : top + window, left : left + window] = 0
                total[top : top + window, left : left + window] += whole - network(hidden)[0, 2]
                count[top : top + window, left : left + window] += 1
    torch.testing.assert_close(found, total / count, atol=1e-5, rtol=1e-3)
    assert found.abs().max() > 0
    assert sum(seen) == len(starts) ** 2 + 1 == num_windows(size, window, stride) + 1


@pytest.mark.parametrize(
    ("window", "stride", "named"), [(37, 1, "36"), (0, 1, "window"), (4, 5, "stride"), (4, 0, "4")]
)
def test_squares_that_do_not_cover_the_image(window, stride, named):
    """Oracle: by hand."""
    with pytest.raises(ConfigError, match=named):
        num_windows(36, window, stride)
