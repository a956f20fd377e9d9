import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from vggnet.data.counter_random import derive_seed
from vggnet.data.tutorial_augmentation import article_augment


def random_image(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (20, 30)])
def test_equals_the_transforms_written_out(height, width):
    """Oracle: torchvision's second generation of the same transforms, in the tutorial's order, under the same seed."""
    transform = v2.Compose(
        [
            v2.RandomCrop((height, width), padding=4),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomRotation(degrees=15),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.PILToTensor(),
        ]
    )
    image = random_image(height, width)
    for index in range(20):
        ours = article_augment(image, seed=11, epoch=3, index=index)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(2, 11, 3, index))
            theirs = transform(image)
        assert ours.dtype == torch.uint8
        assert ours.shape == (3, height, width)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_global_random_state_is_untouched():
    """Invariant: the generator's state before and after."""
    before = torch.random.get_rng_state()
    article_augment(random_image(32, 32), seed=0, epoch=0, index=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_depends_on_seed_epoch_and_index_alone():
    """Invariant: same three numbers, same result, whatever the global state; another number, another result."""
    image = random_image(32, 32)
    first = article_augment(image, seed=1, epoch=2, index=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(article_augment(image, seed=1, epoch=2, index=3), first)
    for other in ({"seed": 2}, {"epoch": 3}, {"index": 4}):
        assert not torch.equal(article_augment(image, **{"seed": 1, "epoch": 2, "index": 3, **other}), first)


def test_input_image_is_untouched():
    """Invariant: the bytes of the image before and after."""
    image = random_image(32, 32)
    before = image.tobytes()
    article_augment(image, seed=0, epoch=0, index=0)
    assert image.tobytes() == before
