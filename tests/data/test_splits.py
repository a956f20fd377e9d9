"""Splits by content: where each image lies, before and after changes. Stratified ones: scikit-learn's indices."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from vggnet.data.splits import carve, divide, divide_for_validation
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


def random_set(images, classes, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 2**64, images, dtype=np.uint64), random.integers(0, classes, images)


def side(hashes, parts):
    """For each content, the parts that it is in."""
    return {int(value): {number for number in (0, 1) if value in hashes[parts[number]]} for value in hashes}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.2, 0.5])
def test_shares_are_near_the_fraction(fraction):
    """Oracle: the binomial distribution, four deviations; other seeds give other images."""
    hashes, labels = random_set(20_000, 10)
    _, val = divide_for_validation(hashes, labels, fraction, seed=3)
    deviation = (fraction * (1 - fraction) / np.bincount(labels)) ** 0.5
    assert np.all(abs(np.bincount(labels[val]) / np.bincount(labels) - fraction) < 4 * deviation)
    other = divide_for_validation(hashes, labels, fraction, seed=4)[1]
    shared = len(np.intersect1d(val, other)) / len(val)
    assert shared == pytest.approx(fraction, abs=0.08)


@pytest.mark.parametrize("seed", range(20))
def test_no_image_moves_when_others_come_and_go(seed):
    """Oracle: the parts of all images together, for any part of them in which each class has images on both sides."""
    hashes, labels = random_set(300, 3, seed)
    whole = side(hashes, divide(hashes, labels, 0.2))
    kept = np.random.default_rng(seed).permutation(300)[:150]
    assert side(hashes[kept], divide(hashes[kept], labels[kept], 0.2)).items() <= whole.items()


def test_each_class_is_on_both_sides():
    """Oracle: the contract, for many small classes; the class of a single image is trained on."""
    for seed in range(30):
        hashes, labels = random_set(60, 12, seed)
        train, test = divide(hashes, labels, 0.2)
        for label, count in enumerate(np.bincount(labels, minlength=12).tolist()):
            found = (np.sum(labels[train] == label), np.sum(labels[test] == label))
            assert sum(found) == count
            assert count == 0 or (found[0] >= 1 and (count == 1 or found[1] >= 1)), (seed, label)


def test_a_growing_class_never_moves_an_image_from_train_to_test():
    """Oracle: the parts before, over the growth of small classes; a test image may become one to train on."""
    for seed in range(200):
        hashes, _ = random_set(12, 1, seed)
        before = set()
        for count in range(3, 13):
            some = hashes[:count]
            train, test = divide(some, np.zeros(count, np.int64), 0.2)
            if len(before) > 1:  # one that is kept for training alone can be given back
                assert not before & set(some[test].tolist())
            before = set(some[train].tolist())


def test_copies_stay_together():
    """Oracle: the contents, each on one side, in one class or several."""
    for seed in range(50):
        contents, _ = random_set(12, 1, seed)
        random = np.random.default_rng(seed)
        hashes, labels = contents[random.integers(0, 12, 40)], random.integers(0, 4, 40)
        assert all(len(sides) == 1 for sides in side(hashes, divide(hashes, labels, 0.3)).values())


def test_images_that_are_all_the_same_cannot_be_divided():
    """Oracle: the contract."""
    hashes, labels = np.array([1, 1, 2, 2], np.uint64), np.array([0, 0, 1, 1])
    assert divide(hashes, labels, 0.5)[1].tolist() == []
    with pytest.raises(ConfigError, match="those of each class are all the same"):
        divide_for_validation(hashes, labels, 0.5, seed=0)
