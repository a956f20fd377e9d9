"""Boxes as numbers, their overlap, greedy merging, the best constant box."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_iou

from vggnet.tasks.box_geometry import (
    MERGE_BELOW,
    clip,
    constant_box,
    decode,
    encode,
    is_correct,
    match_scores,
    merge,
    mirror,
    overlap,
)

COORDINATES = st.floats(0, 100).map(lambda value: round(value, 2))


def boxes_of(corners):
    """Any four numbers in order."""
    low, high = np.minimum(corners[..., :2], corners[..., 2:]), np.maximum(corners[..., :2], corners[..., 2:])
    return np.concatenate([low, high], -1)


MANY = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=COORDINATES).map(boxes_of)


@given(MANY, MANY)
def test_overlap(some, others):
    """Oracle: torchvision's box_iou, which is not a number where neither box has an area."""
    expected = box_iou(torch.from_numpy(some), torch.from_numpy(others)).nan_to_num(0).numpy()
    np.testing.assert_allclose(overlap(some[:, None], others), expected, atol=1e-9)


@given(MANY, st.integers(1, 300))
def test_boxes_as_numbers_and_back(edges, crop):
    """Oracle: plain Python, number by number, and the way back."""
    values = encode(edges, crop)
    for found, (left, top, right, bottom) in zip(values.tolist(), edges.tolist(), strict=True):
        expected = [(left + right) / 2 / crop, (top + bottom) / 2 / crop, (right - left) / crop, (bottom - top) / crop]
        assert found == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(decode(values, crop), edges, atol=1e-9)


def test_a_negative_size_is_none():
    """Oracle: by hand."""
    np.testing.assert_allclose(decode(np.array([0.5, 0.5, -0.2, 0.2]), 10), [5, 4, 5, 6])


def test_boxes_are_cut_at_the_border():
    """Oracle: by hand, in an image of 40 x 30 pixels; the second box lies beside it."""
    boxes = np.array([[-3.0, 5, 44, 31], [41, 2, 50, 9]])
    assert clip(boxes, np.array([[40.0, 30]] * 2)).tolist() == [[0, 5, 40, 30], [40, 2, 40, 9]]


def test_boxes_of_mirror_images():
    """Oracle: by hand, in an image of 40 pixels width, and the way back."""
    boxes = np.array([[0.0, 5, 10, 31], [12, 2, 20, 9]])
    assert mirror(boxes, 40).tolist() == [[30, 5, 40, 31], [20, 2, 28, 9]]
    assert mirror(mirror(boxes, 40), 40).tolist() == boxes.tolist()
    assert mirror(boxes[None, :, None], 40).tolist() == [[[[30, 5, 40, 31]], [[20, 2, 28, 9]]]]


def test_units_do_not_matter():
    """Oracle: by hand, and the same boxes in pixels: in units of the image they overlap and match as much."""
    half, whole = np.array([0.0, 0, 0.5, 1]), np.array([0.0, 0, 1, 1])
    assert overlap(half, whole) == 0.5
    assert overlap(half / 4, whole / 4) == 0.5
    assert match_scores(half, whole) == pytest.approx(match_scores(half * 100, whole * 100))


def test_match_scores():
    """Oracle: by hand: equal boxes; one moved by a third of its side, which overlap by a half; and far apart."""
    box = np.array([0.0, 0, 30, 30])
    assert match_scores(box, box) == 0
    moved = match_scores(box, box + np.array([10, 0, 10, 0]))
    assert moved == pytest.approx(10 / (30 * 2**0.5) + 0.5)
    assert moved < MERGE_BELOW
    assert match_scores(box, box + 60) == pytest.approx(60 * 2**0.5 / (30 * 2**0.5) + 1)


def test_merging_by_hand():
    """Oracle: by hand. Three boxes near each other become their mean, and outdo a better one that stands alone."""
    near = np.array([[10.0, 10, 50, 50], [12, 10, 52, 50], [11, 13, 51, 53]])
    alone = np.array([[200.0, 200, 240, 220]])
    boxes, scores = merge(np.concatenate([near, alone]), np.array([0.2, 0.3, 0.1, 0.5]))
    np.testing.assert_allclose(boxes, [[11, 11, 51, 51], [200, 200, 240, 220]])
    np.testing.assert_allclose(scores, [0.6, 0.5])


@given(MANY, st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_merging_keeps_scores_and_leaves_no_pair(boxes, random):
    """Oracle: invariants. The scores add up, no two boxes match any more, all lie within the given ones."""
    scores = np.array([random.random() for _ in boxes])
    given_boxes, given_scores = boxes.copy(), scores.copy()
    merged, sums = merge(boxes, scores)
    assert sums.sum() == pytest.approx(scores.sum())
    assert np.all(np.diff(sums) <= 0)
    assert np.all(merged.min(0) >= boxes.min(0) - 1e-9)
    assert np.all(merged.max(0) <= boxes.max(0) + 1e-9)
    pairs = match_scores(merged[:, None], merged)[~np.eye(len(merged), dtype=bool)]
    assert np.all(pairs > MERGE_BELOW)
    assert np.array_equal(boxes, given_boxes)
    assert np.array_equal(scores, given_scores)


def brute_force(boxes, scores):
    """Merging with plain loops over lists: the pair of least match score, again and again."""
    items = [(list(box), score, 1) for box, score in zip(boxes, scores, strict=True)]
    while len(items) > 1:
        pairs = [(float(match_scores(np.array(items[i][0]), np.array(items[j][0]))), i, j)
                 for i in range(len(items)) for j in range(i + 1, len(items))]  # fmt: skip
        least, i, j = min(pairs)
        if least > MERGE_BELOW:
            break
        (one, s, n), (other, t, m) = items[i], items[j]
        mean = [(a * n + b * m) / (n + m) for a, b in zip(one, other, strict=True)]
        items = [item for k, item in enumerate(items) if k not in (i, j)]
        items.insert(i, (mean, s + t, n + m))
    return sorted(items, key=lambda item: -item[1])


def test_merging_is_greedy():
    """Oracle: plain loops, on boxes around three places."""
    random = np.random.default_rng(0)
    centers = np.array([[50, 50], [80, 60], [200, 120]])[random.integers(0, 3, 25)] + random.normal(0, 6, (25, 2))
    half = random.uniform(15, 25, (25, 2))
    boxes, scores = np.concatenate([centers - half, centers + half], 1), random.random(25)
    merged, sums = merge(boxes, scores)
    expected = brute_force(boxes, scores)
    assert 1 < len(expected) < 25
    np.testing.assert_allclose(merged, [item[0] for item in expected])
    np.testing.assert_allclose(sums, [item[1] for item in expected])


def test_of_very_many_boxes_the_best_are_merged():
    """Oracle: by hand: 400 boxes that are the same, of which 300 count."""
    boxes, scores = np.tile([0.0, 0, 9, 9], (400, 1)), np.arange(400.0)
    merged, sums = merge(boxes, scores)
    assert merged.tolist() == [[0, 0, 9, 9]]
    assert sums.tolist() == [np.arange(100.0, 400).sum()]


def test_boxes_that_barely_match_are_merged():
    """Oracle: by hand: boxes with one center of which one is a quarter of the other (1 - 1/4); a smaller one stays."""
    large, quarter, smaller = np.array([[0.0, 0, 4, 4], [1, 1, 3, 3], [1.01, 1, 3, 3]])
    assert merge(np.array([large, quarter]), np.ones(2))[0].tolist() == [[0.5, 0.5, 3.5, 3.5]]
    assert len(merge(np.array([large, smaller]), np.ones(2))[0]) == 2


def test_of_pairs_that_match_equally_the_better_is_merged():
    """Oracle: by hand: three boxes in a row; the last two are the better ones, their mean is too far from the first."""
    boxes = np.array([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])
    merged, sums = merge(boxes, np.array([0.1, 0.2, 0.3]))
    assert merged.tolist() == [[4.5, 0, 14.5, 10], [0, 0, 10, 10]]
    assert sums.tolist() == pytest.approx([0.5, 0.1])


def test_boxes_of_equal_scores_keep_their_order():
    """Oracle: Python's sorting, which is stable; no two of the boxes match."""
    boxes = np.array([[100.0 * number, 0, 100 * number + 9, 9] for number in range(200)])
    scores = np.random.default_rng(0).integers(0, 3, 200).astype(float)
    expected = sorted(range(200), key=lambda number: -scores[number])
    assert merge(boxes, scores)[0].tolist() == boxes[expected].tolist()


@pytest.mark.parametrize("count", [599, 600, 1000, 4321])
@pytest.mark.parametrize("parts", [2, 3, 5, 7])
@pytest.mark.parametrize("in_turn", [False, True])
def test_of_equal_scores_every_part_has_its_share(count, parts, in_turn):
    """Oracle: by hand. The boxes say different things, in one block after the other or by turns, as scales and networks
    do; each is merged to its share of the 300, within a twentieth.
    """
    numbers = np.arange(count)
    part = numbers % parts if in_turn else numbers * parts // count
    merged, sums = merge(np.array([0.0, 0, 9, 9]) + 100 * part[:, None], np.ones(count))
    assert sums.sum() == 300
    assert dict(zip(merged[:, 0], sums, strict=True)) == pytest.approx(
        {100.0 * each: 300 / parts for each in range(parts)}, abs=15
    )


def test_where_scores_tie_at_the_cut_the_better_ones_are_all_merged():
    """Oracle: by hand. 100 boxes at the end are better; the 200 places left go to two kinds of 400 others."""
    boxes = np.repeat([[0.0, 0, 9, 9], [100, 0, 109, 9], [200, 0, 209, 9]], (400, 400, 100), axis=0)
    merged, sums = merge(boxes, np.repeat([1.0, 1.0, 5.0], (400, 400, 100)))
    assert (merged[0].tolist(), sums[0]) == ([200, 0, 209, 9], 500)
    assert sums[1:].sum() == 200
    assert sums[1:] == pytest.approx([100, 100], abs=5)


def test_correct_is_above_one_half():
    """Oracle: by hand: an overlap of exactly one half is not enough (ILSVRC)."""
    true = np.array([[0.0, 0, 10, 10]] * 3)
    predicted = np.array([[0.0, 0, 5, 10], [0, 0, 5.1, 10], [0, 0, 10, 10]])
    assert is_correct(predicted, true).tolist() == [False, True, True]


def test_the_best_constant_box():
    """Oracle: by hand: it is right for three of four. In an image twice as wide it is twice as wide."""
    sizes = np.array([[100.0, 100], [200, 100], [100, 100], [100, 100]])
    edges = np.array([[10.0, 10, 60, 60], [20, 10, 120, 60], [12, 10, 60, 62], [80, 80, 100, 100]])
    box = constant_box(edges, sizes)
    np.testing.assert_allclose(box, [0.1, 0.1, 0.6, 0.6])


@pytest.mark.parametrize("turn", [1, -1])
def test_the_best_constant_box_may_be_none_of_them(turn):
    """Oracle: by hand: neither box is right for the other, one between them is for both, be it larger or smaller."""
    edges = np.array([[0.0, 0, 64, 31], [0, 0, 64, 64]])[::turn]
    assert not is_correct(edges[0], edges[1])
    assert is_correct(constant_box(edges, np.full((2, 2), 64.0)) * 64, edges).all()


@pytest.mark.parametrize("step", [1, 2, 4])
def test_the_best_constant_box_is_found_by_steps(step):
    """Oracle: by hand, in 64ths of the height: a bottom at 1.5 and one at 4.5 have it between 2.25 and 3 in common,
    which a step of 1 reaches from 1.5, and one of 2 or 4 does not; and the same twice and four times as large.
    """
    edges = np.array([[0.0, 0, 1, 1.5], [0, 0, 1, 4.5]]) * [1, 1, 1, step]
    assert constant_box(edges, np.array([[1.0, 64]] * 2)).tolist() == [0, 0, 1, 2.5 * step / 64]


def test_of_very_many_boxes_some_are_tried(monkeypatch):
    """Oracle: by hand: of seven boxes, and at most three tried, every third: the fourth, which is there twice."""
    monkeypatch.setattr("vggnet.tasks.box_geometry.MOST_TRIED", 3)
    places = [0, 1, 2, 7, 4, 5, 7]
    edges = np.array([[10.0 * place, 0, 10 * place + 9, 9] for place in places])
    assert constant_box(edges, np.ones((7, 2))).tolist() == [70, 0, 79, 9]
