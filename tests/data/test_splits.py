"""The validation split: counts by hand, and scikit-learn's indices wherever it can split."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from vggnet.data.splits import carve
from vggnet.errors import ConfigError


def test_carved_split_is_stratified_and_fixed():
    """Oracle: counts by hand: a tenth of 50, 30 and 20 images."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    train, val = carve(labels, 0.1, seed=5)
    assert np.bincount(labels[val]).tolist() == [5, 3, 2]
    assert sorted([*train, *val]) == list(range(100))
    assert np.array_equal(carve(labels, 0.1, seed=5)[1], val)
    assert not np.array_equal(carve(labels, 0.1, seed=6)[1], val)


@pytest.mark.parametrize(("counts", "fraction"), [((50, 30, 20), 0.1), ((500, 3), 0.05), ((7, 9, 11), 0.3)])
def test_carved_split_is_scikit_learns(counts, fraction):
    """Oracle: its stratified split; runs of earlier versions are resumed with the same images."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    expected = train_test_split(np.arange(len(labels)), test_size=fraction, random_state=5, stratify=labels)
    for found, indices in zip(carve(labels, fraction, seed=5), expected, strict=True):
        assert found.tolist() == sorted(indices.tolist())


@pytest.mark.parametrize(
    ("counts", "fraction", "validated"),
    [
        ((10, 9, 9), 0.05, [1, 1, 1]),
        ((2, 2, 2, 2), 0.1, [1, 1, 1, 1]),
        ((40, 1), 0.1, [4, 0]),
        ((5, 5), 0.9, [4, 4]),
        ((2, 1), 0.9, [1, 0]),
    ],
)
def test_few_images_are_shared_out(counts, fraction, validated):
    """Oracle: counts by hand: the rounded share, at least one, never the last; a single image is trained on."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    train, val = carve(labels, fraction, seed=5)
    assert np.bincount(labels[val], minlength=len(counts)).tolist() == validated
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert train.tolist() == sorted(train)
    assert val.tolist() == sorted(val)
    assert np.array_equal(carve(labels, fraction, seed=5)[1], val)


def test_few_images_are_drawn_by_the_seed():
    """Oracle: one image each of three tens; twenty seeds choose more than one set."""
    labels = np.repeat([0, 1, 2], 10)
    assert len({tuple(carve(labels, 0.05, seed)[1]) for seed in range(20)}) > 10


@pytest.mark.parametrize(("labels", "fraction"), [([0, 1], 0.5), ([0, 0, 1, 1], 1.0), ([0, 0, 1, 1], -0.5), ([], 0.1)])
def test_what_cannot_be_split_is_refused_in_one_line(labels, fraction):
    """Oracle: the field is named, and what to do."""
    with pytest.raises(ConfigError, match=r"^val_fraction .*Choose 0 .*\.$"):
        carve(np.array(labels, dtype=np.int64), fraction, seed=0)
