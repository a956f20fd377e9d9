from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from vggnet.data.augmentation import BatchAugment
from vggnet.data.tutorial_augmentation import article_augment
from vggnet.errors import ConfigError, InputError

SEED = 7
SIZES = [(3, 32, 32), (1, 28, 28), (3, 20, 33), (1, 9, 6)]  # C, H, W

BATCHES = st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.integers(5, 24), st.integers(5, 24))
AUGMENTS = st.builds(
    BatchAugment,
    shift=st.integers(0, 4),
    flip=st.sampled_from(["none", "random", "alternating"]),
    rotation=st.floats(0, 180),
    jitter=st.floats(0, 1),
    cutout=st.integers(0, 5),
    padding=st.sampled_from(["zero", "reflect"]),
)


def random_pixels(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    shape = (count, channels, height, width)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def run(augment: BatchAugment, pixels: torch.Tensor, epoch: int = 0):
    """Results and draws of images 100, 101, ..."""
    indices = torch.arange(100, 100 + len(pixels))
    height, width = pixels.shape[2:]
    draws = augment.draw(indices, seed=SEED, epoch=epoch, height=height, width=width)
    return augment(pixels, indices, seed=SEED, epoch=epoch), draws


def cropped(image: torch.Tensor, padding: str, margin: int, dy: int, dx: int) -> torch.Tensor:
    padded = tv.pad(image, [margin] * 4, padding_mode={"zero": "constant", "reflect": "reflect"}[padding])
    return tv.crop(padded, margin + dy, margin + dx, *image.shape[1:])


@pytest.mark.parametrize("size", SIZES)
def test_nothing_on_is_a_division_by_255(size):
    """Hand-worked: the defaults scale to [0, 1] and do nothing else."""
    pixels = random_pixels(5, *size)
    images, _ = run(BatchAugment(), pixels)
    assert images.dtype == torch.float32
    assert torch.equal(images, pixels.to(torch.float32) / 255)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("size", SIZES)
def test_shift_and_flip(size, padding):
    """Oracle: torchvision's pad, crop and horizontal flip, image by image."""
    pixels = random_pixels(64, *size)
    images, draws = run(BatchAugment(shift=4, flip="random", padding=padding), pixels)
    for i, (dy, dx) in enumerate(zip(draws.shift_y.tolist(), draws.shift_x.tolist(), strict=True)):
        expected = cropped(pixels[i], padding, 4, dy, dx)
        if draws.flipped[i]:
            expected = tv.horizontal_flip(expected)
        assert torch.equal(images[i], expected / 255)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", SIZES)
def test_flip_alone(size, layout):
    """Oracle: torchvision's horizontal flip, image by image; the batch itself stays as it was."""
    pixels = random_pixels(16, *size).contiguous(memory_format=layout)
    before = pixels.clone()
    images, draws = run(BatchAugment(flip="random"), pixels)
    assert 0 < draws.flipped.sum() < 16
    for image, flipped, pixel in zip(images, draws.flipped, pixels, strict=True):
        assert torch.equal(image, (tv.horizontal_flip(pixel) if flipped else pixel) / 255)
    assert torch.equal(pixels, before)


def test_what_is_off_draws_nothing_and_changes_no_other_draw():
    """Oracle: the draws of an augmentation that has all of them on; without cutout its place says nothing."""
    everything = BatchAugment(shift=2, flip="random", rotation=9, jitter=0.3, color_shift=0.1, cutout=2)
    sizes = {"seed": 3, "epoch": 4, "height": 20, "width": 30}
    full = everything.draw(torch.arange(50), **sizes)
    off = BatchAugment().draw(torch.arange(50), **sizes)
    flips = BatchAugment(flip="random").draw(torch.arange(50), **sizes)
    jitters = BatchAugment(jitter=0.3).draw(torch.arange(50), **sizes)
    assert torch.equal(flips.flipped, full.flipped)
    assert torch.equal(jitters.brightness, full.brightness)
    for field in fields(full):
        value, ours = getattr(full, field.name), getattr(off, field.name)
        assert (value.shape, value.dtype) == (ours.shape, ours.dtype)
        neutral = 1 if field.name in ("brightness", "contrast", "saturation") else 0
        assert (ours == neutral).all()


def test_draws_cover_their_ranges():
    """Oracle: the documented ranges. 3,000 draws reach every shift and place, and come near both ends of the rest."""
    augment = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, cutout=8)
    draws = augment.draw(torch.arange(3000), seed=0, epoch=0, height=32, width=20)
    for shift in (draws.shift_y, draws.shift_x):
        assert shift.unique().tolist() == list(range(-4, 5))
    assert draws.cutout_y.unique().tolist() == list(range(25))
    assert draws.cutout_x.unique().tolist() == list(range(13))
    assert abs(draws.flipped.float().mean() - 0.5) < 0.05
    assert -15 <= draws.angle.min() < -14.9
    assert 14.9 < draws.angle.max() <= 15
    for factor in (draws.brightness, draws.contrast, draws.saturation):
        assert 0.8 <= factor.min() < 0.802
        assert 1.198 < factor.max() <= 1.2


def test_quantities_of_one_image_are_uncorrelated():
    """Oracle: numpy's correlation matrix of all drawn quantities over 10,000 images (standard error 0.01)."""
    colors = {"color_shift": 0.1, "color_axes": tuple(np.eye(3).ravel())}
    augment = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, cutout=8, **colors)
    draws = augment.draw(torch.arange(10_000), seed=0, epoch=0, height=32, width=32)
    columns = np.vstack([quantity.numpy().astype(np.float64).T for quantity in vars(draws).values()])
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.05


@pytest.mark.parametrize("size", SIZES)
def test_rotation_with_black_corners(size):
    """Oracle: torchvision's crop, flip and rotation (nearest neighbor, fill 0). It rounds in other units, so a pixel
    whose source lies within rounding error of the middle between two may differ."""
    pixels = random_pixels(64, *size) // 2 + 1  # no pixel is black by itself
    images, draws = run(BatchAugment(shift=3, flip="random", rotation=15, padding="zero"), pixels)
    expected = []
    for i, angle in enumerate(draws.angle.tolist()):
        image = cropped(pixels[i], "zero", 3, int(draws.shift_y[i]), int(draws.shift_x[i]))
        image = tv.horizontal_flip(image) if draws.flipped[i] else image
        expected.append(tv.rotate(image, angle) / 255)
    assert (images != torch.stack(expected)).float().mean() < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_rotation_with_reflection(size):
    """Oracle: numpy's reflecting pad makes the large picture, torchvision rotates it, the middle is cut out."""
    pixels = random_pixels(64, *size)
    height, width = size[1:]
    margin = 2 * max(height, width)
    large = torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), (0, 0), (margin, margin), (margin, margin)), "reflect"))
    images, draws = run(BatchAugment(shift=3, flip="random", rotation=180), pixels)
    expected = []
    for i, angle in enumerate(draws.angle.tolist()):
        dy, dx, side = int(draws.shift_y[i]), int(draws.shift_x[i]), margin // 2
        image = tv.crop(large[i], side + dy, side + dx, height + margin, width + margin)
        image = tv.horizontal_flip(image) if draws.flipped[i] else image
        expected.append(tv.center_crop(tv.rotate(image, angle), [height, width]) / 255)
    assert (images != torch.stack(expected)).float().mean() < 2e-3


def test_quarter_turn_is_counter_clockwise():
    """Oracle: numpy.rot90, for the image whose drawn angle is the nearest to 90 degrees."""
    pixels = random_pixels(1, 3, 8, 8)
    augment = BatchAugment(rotation=180, padding="zero")
    angles = augment.draw(torch.arange(4000), seed=0, epoch=0, height=8, width=8).angle
    index = (angles - 90).abs().argmin().view(1)
    turned = augment(pixels, index, seed=0, epoch=0)
    np.testing.assert_array_equal(turned[0] * 255, np.rot90(pixels[0], axes=(1, 2)))


@pytest.mark.parametrize("jitter", [0.2, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_jitter(size, jitter):
    """Oracle: torchvision's adjust_brightness, adjust_contrast and adjust_saturation, image by image."""
    pixels = random_pixels(64, *size)
    images, draws = run(BatchAugment(jitter=jitter), pixels)
    for i in range(len(pixels)):
        expected = tv.adjust_brightness(pixels[i] / 255, draws.brightness[i].item())
        expected = tv.adjust_contrast(expected, draws.contrast[i].item())
        expected = tv.adjust_saturation(expected, draws.saturation[i].item())
        torch.testing.assert_close(images[i], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_cutout(size):
    """Oracle: torchvision's erase, image by image; it is the last step, so the jitter does not change its color."""
    channels = size[0]
    pixels = random_pixels(64, *size)
    fill = (0.1, 0.2, 0.3)[:channels]
    images, draws = run(BatchAugment(cutout=5, jitter=0.2, fill=fill), pixels)
    whole, _ = run(BatchAugment(jitter=0.2), pixels)
    for i in range(len(pixels)):
        value = torch.tensor(fill).view(-1, 1, 1)
        expected = tv.erase(whole[i], int(draws.cutout_y[i]), int(draws.cutout_x[i]), 5, 5, value)
        assert torch.equal(images[i], expected)


def test_one_fill_value_serves_all_channels():
    """Hand-worked: a square as large as the image leaves nothing but the color."""
    images, _ = run(BatchAugment(cutout=6, fill=(0.25,)), random_pixels(2, 3, 6, 6))
    assert torch.equal(images, torch.full((2, 3, 6, 6), 0.25))


def test_white_fills_too():
    """Hand-worked: 1 is the largest value of a color."""
    images, _ = run(BatchAugment(cutout=6, fill=(1.0,)), random_pixels(1, 3, 6, 6))
    assert (images == 1).all()


def flipped(flip, epoch):
    """Which of 200 images are mirrored in an epoch."""
    return BatchAugment(flip=flip).draw(torch.arange(200), seed=SEED, epoch=epoch, height=4, width=4).flipped


def test_which_images_are_flipped():
    """Oracle: the docstring: "random" draws anew in each epoch; the half of "alternating" is that of its first draw."""
    first, second = flipped("random", 0), flipped("random", 1)
    assert 60 < (first == second).sum() < 140  # neither the same nor the others
    assert torch.equal(flipped("alternating", 0), first)
    assert torch.equal(flipped("alternating", 1), ~first)
    assert torch.equal(flipped("alternating", 2), first)


def test_draws_at_the_ends_of_the_unit_interval(monkeypatch):
    """Oracle: by hand: of numbers in [0, 1) half lie below 0.5; the least and the largest give opposite colors."""
    chances = np.array([0, 0.5, 1 - 2**-24], dtype=np.float32)
    monkeypatch.setattr("vggnet.data.augmentation.uniform", lambda seed, epoch, indices, stream: chances)
    for flip in ("random", "alternating"):
        augment = BatchAugment(flip=flip, shift=2, color_shift=0.5, color_axes=(0.1,))
        draws = augment.draw(torch.arange(3), seed=0, epoch=0, height=8, width=8)
        assert draws.flipped.tolist() == [True, False, False]
        assert draws.shift_y.tolist() == [-2, 0, 2]
        least, middle, largest = draws.color[:, 0].tolist()
        assert least == -largest
        assert -0.5 < least < 0
        assert middle == pytest.approx(0, abs=1e-7)


def test_options_may_be_whole_numbers():
    """Oracle: the documented types of the draws."""
    draws = BatchAugment(rotation=0, jitter=0).draw(torch.arange(2), seed=0, epoch=0, height=4, width=4)
    assert (draws.angle.dtype, draws.brightness.dtype, draws.shift_x.dtype) == (*[torch.float32] * 2, torch.int64)


@pytest.mark.parametrize(
    "options",
    [
        {"shift": 2, "flip": "random", "rotation": 9},
        {"shift": 2, "padding": "zero"},
        {"jitter": 0.2, "color_shift": 0.1, "color_axes": (0.1,) * 9, "cutout": 3, "fill": (0.1, 0.2, 0.3)},
    ],
)
def test_the_result_is_where_the_batch_is(options):
    """Oracle: the device "meta", which refuses tensors of the CPU; the indices are on the CPU."""
    pixels = torch.empty(3, 3, 8, 8, dtype=torch.uint8, device="meta")
    images = BatchAugment(**options)(pixels, torch.arange(3), seed=0, epoch=0)
    assert (images.device.type, images.shape) == ("meta", (3, 3, 8, 8))


@pytest.mark.parametrize(
    ("shape", "device", "pieces"),
    [
        ((300, 3, 32, 32), "cpu", [128, 128, 44]),
        ((70, 1, 64, 32), "cpu", [64, 6]),
        ((9, 3, 256, 256), "cpu", [4, 4, 1]),
        ((300, 3, 32, 32), "meta", [300]),
    ],
)
def test_pieces_fit_the_cache_of_a_cpu(shape, device, pieces):
    """Oracle: by hand: 131,072 pixels, at least four images; all at once on other devices."""
    pixels = torch.empty(shape, dtype=torch.uint8, device=device)
    found = BatchAugment(shift=1).pieces(pixels, torch.arange(len(pixels)), seed=0, epoch=0)
    assert [len(piece) for piece in found] == pieces


def test_alternating_flip_shows_both_sides_in_two_epochs():
    """Hand-worked: of two epochs one shows the image, the other its mirror image; the third repeats the first."""
    pixels = random_pixels(200, 3, 6, 7)
    first, second, third = (run(BatchAugment(flip="alternating"), pixels, epoch)[0] for epoch in (4, 5, 6))
    straight, mirrored = pixels / 255, pixels.flip(3) / 255
    was_straight = torch.tensor([torch.equal(a, b) for a, b in zip(first, straight, strict=True)])
    choice = was_straight.view(-1, 1, 1, 1)
    assert torch.equal(first, torch.where(choice, straight, mirrored))
    assert torch.equal(second, torch.where(choice, mirrored, straight))
    assert torch.equal(third, first)
    assert 70 < was_straight.sum() < 130  # a half, within four standard deviations


@settings(max_examples=60)
@given(augment=AUGMENTS, shape=BATCHES, epoch=st.integers(0, 3), data=st.data())
def test_an_image_does_not_depend_on_its_batch(augment, shape, epoch, data):
    """Invariant: permuting a batch permutes the result, and an image alone gives the same; values stay in [0, 1], the
    batch handed in is unchanged. Sizes include no image, one image, one channel, and images that are not square."""
    count = shape[0]
    pixels = random_pixels(*shape)
    before = pixels.clone()
    indices = data.draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))

    def result(places: list[int]) -> torch.Tensor:
        chosen = torch.tensor([indices[place] for place in places], dtype=torch.int64)
        return augment(pixels[places], chosen, seed=SEED, epoch=epoch)

    images = result(list(range(count)))
    assert images.shape == shape
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    assert torch.equal(pixels, before)
    torch.testing.assert_close(result(order), images[order], rtol=0, atol=1e-6)
    for place in range(count):
        torch.testing.assert_close(result([place]), images[[place]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1)])
def test_images_of_one_row_or_column(height, width):
    """Hand-worked: the reflection of a single row is that row, so a flip is all that happens."""
    pixels = random_pixels(20, 3, height, width)
    images, draws = run(BatchAugment(flip="random"), pixels)
    assert torch.equal(images, torch.where(draws.flipped.view(-1, 1, 1, 1), pixels.flip(3), pixels) / 255)
    turned, _ = run(BatchAugment(rotation=180), pixels)
    assert torch.isin(turned, pixels / 255).all()


def test_non_contiguous_batch():
    """Invariant: channels-last memory changes nothing."""
    pixels = random_pixels(4, 3, 8, 9)
    augment = BatchAugment(shift=2, flip="random", rotation=15, jitter=0.2, cutout=3)
    strange = pixels.to(memory_format=torch.channels_last)
    torch.testing.assert_close(run(augment, strange)[0], run(augment, pixels)[0], rtol=0, atol=1e-6)


def test_distribution_of_the_article_s_pipeline():
    """Oracle: the tutorial's torchvision pipeline. Mean and spread of every pixel over many draws agree.

    Pillow drops the fraction of a level after each of the three color steps: 1.5 levels of bias, for which 2 are
    allowed on top of five standard errors.
    """
    ramp = np.tile(np.linspace(30, 220, 32), (32, 1))
    image = np.stack([(ramp + ramp.T) / 2, ramp, np.full((32, 32), 128)], axis=2).astype(np.uint8)
    count = 2000
    draws = [article_augment(Image.fromarray(image), seed=1, epoch=0, index=i) for i in range(count)]
    slow = torch.stack(draws) / 255
    pixels = torch.from_numpy(image).permute(2, 0, 1).expand(count, 3, 32, 32)
    augment = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, padding="zero")
    fast = augment(pixels, torch.arange(count), seed=2, epoch=0)
    error = ((slow.var(0) + fast.var(0)) / count).sqrt()
    assert ((slow.mean(0) - fast.mean(0)).abs() < 5 * error + 2 / 255).all()
    assert ((slow.std(0) / fast.std(0)).log().abs() < 0.25).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": -1}, "shift is -1"),
        ({"cutout": -2}, "cutout is -2"),
        ({"rotation": 181}, "rotation is 181"),
        ({"rotation": float("nan")}, "rotation is nan"),
        ({"jitter": 1.5}, "jitter is 1.5"),
        ({"jitter": -0.1}, "jitter is -0.1"),
        ({"color_shift": 1.5}, "color_shift is 1.5"),
        ({"flip": "vertical"}, "flip is 'vertical'"),
        ({"padding": "edge"}, "padding is 'edge'"),
        ({"fill": (0.5, 0.5)}, "fill is"),
        ({"fill": (125.3,)}, "fill is"),
        ({"fill": (1.5,)}, "fill is"),
        ({"fill": ()}, "fill is"),
    ],
)
def test_impossible_options(options, words):
    """Oracle: the documented ranges; the one line names option and value."""
    with pytest.raises(ConfigError, match=words) as caught:
        BatchAugment(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "pixels", "indices", "words"),
    [
        ({}, torch.zeros(2, 3, 8, 8), torch.arange(2), "torch.float32"),
        ({}, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.arange(3), r"\(3, 8, 8\)"),
        ({}, torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.arange(2), r"\(2, 4, 8, 8\)"),
        ({}, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(3), r"give int64 \(2,\)"),
        ({}, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), "torch.float32"),
        ({"shift": 6}, torch.zeros(2, 3, 8, 6, dtype=torch.uint8), torch.arange(2), "shift 6"),
        ({"cutout": 7}, torch.zeros(2, 3, 8, 6, dtype=torch.uint8), torch.arange(2), "cutout 7"),
        ({"fill": (0.1, 0.2, 0.3)}, torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.arange(2), "gray"),
    ],
)
def test_batches_that_do_not_fit(options, pixels, indices, words):
    """Oracle: the documented shapes; the one line says what was found."""
    with pytest.raises(InputError, match=words) as caught:
        BatchAugment(**options)(pixels, indices, seed=0, epoch=0)
    assert "\n" not in str(caught.value)


AXES = np.array([[0.1, -0.02, 0.03], [0.12, 0.01, -0.04], [0.09, 0.03, 0.02]])


def test_color_shift_adds_one_color_to_an_image():
    """Oracle: by hand: all pixels of an image move alike, out of [0, 1] if need be, each image in its own way."""
    augment = BatchAugment(color_shift=0.5, color_axes=tuple(AXES.ravel()))
    pixels = random_pixels(6, 3, 8, 8)
    images, draws = run(augment, pixels)
    moved = images - pixels.float() / 255
    assert torch.allclose(moved, draws.color[:, :, None, None].expand_as(moved), atol=1e-6)
    assert len({tuple(color.tolist()) for color in (*draws.color, *run(augment, pixels, epoch=1)[1].color)}) == 12


def test_color_shifts_are_normal_along_the_axes():
    """Oracle: numpy: the covariance of A z with z ~ N(0, s^2 I) is s^2 A A^T; kurtosis of a normal variable is 3."""
    augment = BatchAugment(color_shift=0.1, color_axes=tuple(AXES.ravel()))
    colors = augment.draw(torch.arange(40_000), seed=SEED, epoch=0, height=4, width=4).color.double().numpy()
    np.testing.assert_allclose(np.cov(colors.T), 0.01 * AXES @ AXES.T, atol=6e-6)
    assert np.mean(colors**4) / np.mean(colors**2) ** 2 == pytest.approx(3, abs=0.6)
    np.testing.assert_allclose(colors.mean(0), 0, atol=3e-4)


def test_color_axes_must_fit_the_images():
    """Oracle: the docstring."""
    with pytest.raises(ConfigError, match="color_axes has 4 numbers"):
        BatchAugment(color_shift=0.1, color_axes=(0.1,) * 4)
    for axes, channels, needed in ((9, 1, 1), (1, 3, 9)):
        with pytest.raises(InputError, match=f"images of {channels} channels need {needed}\\."):
            run(BatchAugment(color_shift=0.1, color_axes=(0.1,) * axes), random_pixels(2, channels, 8, 8))
