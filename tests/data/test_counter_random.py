from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vggnet.data.counter_random import Domain, derive_seed, image_seed, splitmix64, uniform

SIGNED64 = st.integers(-(2**63), 2**63 - 1)


def plain_splitmix64(seed: int, count: int) -> list[int]:
    """The generator as its paper writes it: a state that is stepped and mixed, in Python integers."""
    outputs, state = [], seed
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_published_outputs():
    """Oracle: the outputs for seed 1234567 that implementations of SplitMix64 publish as their test vector."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, np.arange(5)).tolist() == expected


@given(seed=st.integers(0, 2**64 - 1))
def test_outputs_equal_the_stepped_generator(seed):
    """Oracle: the sequential generator in Python integers."""
    assert splitmix64(seed, np.arange(8)).tolist() == plain_splitmix64(seed, 8)


def test_derived_seed_of_one_part():
    """Oracle: by definition the first output of the generator started at 1 (the number of parts) + 41, halved."""
    assert derive_seed(41) == plain_splitmix64(42, 1)[0] // 2


@given(parts=st.lists(SIGNED64, max_size=4))
def test_derived_seeds_fit_torch(parts):
    """Invariant: 63 bits and not negative, whatever the parts."""
    assert 0 <= derive_seed(*parts) < 2**63


def test_derived_seeds_are_distinct():
    """Oracle: counting. Numbers, orders and lengths of parts that are near each other give different seeds."""
    parts = [()] + [p for length in (1, 2, 3) for p in product(range(-4, 12), repeat=length)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)


@given(seed=SIGNED64, epoch=st.integers(0, 10**6), stream=st.integers(0, 99), data=st.data())
def test_a_draw_does_not_depend_on_the_batch(seed, epoch, stream, data):
    """Invariant: the draws of a batch are the draws of its images alone, in any order and company."""
    indices = np.array(data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=20)), dtype=np.int64)
    alone = [uniform(seed, epoch, indices[i : i + 1], stream)[0] for i in range(len(indices))]
    np.testing.assert_array_equal(uniform(seed, epoch, indices, stream), alone)


def test_no_images_no_draws():
    """Hand-worked: nothing in, nothing out."""
    draws = uniform(0, 0, np.zeros(0, np.int64), 0)
    assert draws.shape == (0,)
    assert draws.dtype == np.float32


def test_range_is_half_open():
    """Oracle: the bounds, over a million draws; float32 rounding must not reach 1."""
    draws = uniform(3, 1, np.arange(1_000_000), 2)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.max() > 1 - 1e-5


# Fixed seeds make the statistical tests below deterministic; the levels are those of a fresh sample.
@pytest.mark.parametrize(("seed", "epoch", "stream"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 199, 8)])
def test_draws_are_uniform(seed, epoch, stream):
    """Oracle: scipy's Kolmogorov-Smirnov test, and its chi-squared test on the lowest of the 24 bits."""
    draws = uniform(seed, epoch, np.arange(50_000), stream)
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    low_bits = (draws.astype(np.float64) * 2**24).astype(np.int64) % 256
    assert stats.chisquare(np.bincount(low_bits, minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("step", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
def test_neighbors_are_independent(step):
    """Oracle: scipy's Pearson correlation, and its chi-squared test on 16 x 16 cells of pairs (u, neighbor of u)."""
    indices = np.arange(50_000)
    seed, epoch, offset, stream = step
    here, there = uniform(5, 7, indices, 3), uniform(5 + seed, 7 + epoch, indices + offset, 3 + stream)
    assert stats.pearsonr(here, there).pvalue > 1e-3
    cells, _, _ = np.histogram2d(here, there, bins=16, range=((0, 1), (0, 1)))
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_one_image_over_epochs_is_uniform():
    """Oracle: scipy's Kolmogorov-Smirnov test along the other axis: one image, many epochs."""
    image = np.array([12345])
    draws = np.concatenate([uniform(0, epoch, image, 0) for epoch in range(5000)])
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert abs(stats.pearsonr(draws[1:], draws[:-1]).statistic) < 0.05


def test_seeds_of_images_are_of_their_domain_alone():
    """Oracle: counting: no two domains share a seed, and none has one of a training step (derive_seed of three)."""
    numbers = list(product(range(4), range(6), range(12)))
    steps = [derive_seed(*each) for each in numbers]
    images = [
        image_seed(domain, seed=seed, epoch=epoch, index=index) for domain in Domain for seed, epoch, index in numbers
    ]
    assert len({*steps, *images}) == len(numbers) * (1 + len(Domain))
