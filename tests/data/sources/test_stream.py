"""Streams: every image once, in an order that a few groups at a time are enough for."""

import io
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from vggnet.data.loading import EvalBatches, StreamBatches, WholeImages
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources import stream
from vggnet.data.sources.stream import Stream
from vggnet.errors import DataError, ImageError

PREPROCESS = Preprocess(resize=8, crop=8)


class Files(list):
    """The files of a group, which can be watched."""

    __hash__ = object.__hash__


class Numbers:
    """A group of flat images that show their index, in red and green."""

    def __init__(self, first, count, alive):
        self.first, self.count, self.alive = first, count, alive
        self.reads = 0

    def __len__(self):
        return self.count

    def read(self):
        self.reads += 1
        files = Files(encoded(self.first + place) for place in range(self.count))
        self.alive.add(files)
        return files

    def describe(self, place):
        return f"row {self.first + place}"


class Numbered(Stream):
    """Groups of these sizes; `alive` are those in memory."""

    def __init__(self, *counts):
        self.alive = weakref.WeakSet()
        firsts = np.cumsum([0, *counts]).tolist()
        self.parts = [Numbers(*of, self.alive) for of in zip(firsts, counts, strict=False)]
        labels = np.arange(firsts[-1]) % 3
        super().__init__(self.parts, name="n", split="train", classes=("a", "b", "c"), labels=labels, fingerprint="0")

    @property
    def reads(self):
        return [part.reads for part in self.parts]


def encoded(index):
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (index % 256, index // 256, 0)).save(data, "PNG")
    return data.getvalue()


def shown(images):
    return (images[:, 0, 0, 0].int() + 256 * images[:, 1, 0, 0].int()).tolist()


def batches(source, batch_size=7, **options):
    return StreamBatches(source, PREPROCESS, batch_size, **{"indices": np.arange(len(source)), "seed": 1, **options})


def orders(source, epoch=0, start=0, **options):
    return [batch.indices.tolist() for batch in batches(source, **options).epoch(epoch, start)]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("counts", [(10,), (1, 2, 30, 4, 5), (20,) * 6])
def test_the_processes_see_every_image_once(counts, size):
    """Oracle: the set of indices; pixels and labels are those of the index. All have the same number of batches."""
    source = Numbered(*counts)
    parts = [list(batches(source, rank=rank, size=size).epoch(2)) for rank in range(size)]
    assert {len(part) for part in parts} == {len(batches(source))} == {-(-sum(counts) // 7)}
    everything = [batch for part in parts for batch in part]
    assert sorted(torch.cat([batch.indices for batch in everything]).tolist()) == list(range(sum(counts)))
    for batch in everything:
        assert shown(batch.images) == batch.indices.tolist() or not len(batch.indices)
        assert torch.equal(batch.labels, batch.indices % 3)
    for part in parts:
        sizes = [len(batch.indices) for batch in part]
        assert max(sizes) - min(sizes) <= 1
    totals = [sum(len(batch.indices) for batch in part) for part in parts]
    assert max(totals) - min(totals) <= 1


def test_processes_share_few_groups():
    """Oracle: the groups that each has read: two neighbors share one at most."""
    read = []
    for rank in range(3):
        source = Numbered(*[5] * 20)
        list(batches(source, rank=rank, size=3).epoch(0))
        assert set(source.reads) == {0, 1}
        read.append(set(np.flatnonzero(source.reads)))
    assert sum(map(len, read)) <= 20 + 2
    assert read[0] | read[1] | read[2] == set(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_a_function_of_seed_and_epoch(workers):
    """Oracle: the tail of the whole epoch, for which no group is read that it does not need."""
    source = Numbered(*[10] * 12)
    whole = orders(source, epoch=3, workers=workers)
    assert orders(Numbered(*[10] * 12), epoch=3, start=16, workers=workers) == whole[16:]
    assert orders(source, epoch=4) != whole
    assert orders(source, epoch=3, seed=2) != whole


def test_a_later_start_reads_what_is_left_only(monkeypatch):
    """Oracle: the groups of the batches that are left."""
    monkeypatch.setattr(stream, "BUFFER", 20)
    source = Numbered(*[10] * 30)
    left = orders(source, start=35, batch_size=7)
    assert np.flatnonzero(source.reads).tolist() == sorted({index // 10 for chunk in left for index in chunk})
    assert sum(source.reads) < 15


def test_few_groups_are_in_memory(monkeypatch):
    """Oracle: by hand: those of a buffer of 100 images and of the six batches of 10 from the current one on.

    Each group is read once. The images of a batch come from several groups.
    """
    monkeypatch.setattr(stream, "BUFFER", 100)
    source = Numbered(*[20] * 100)
    held, mixed = [], []
    for batch in batches(source, batch_size=10).epoch(0):
        held.append(len(source.alive))
        mixed.append(len(set((batch.indices // 20).tolist())))
    assert set(source.reads) == {1}
    assert max(held) <= (100 + 60) / 20 + 2
    assert np.mean(mixed) > 3


def test_no_image_is_late_by_more_than_the_buffer(monkeypatch):
    """Oracle: the order without any delay: by how many places each image has moved."""
    monkeypatch.setattr(stream, "BUFFER", 50)
    source, everything = Numbered(*[8] * 40), np.arange(320)
    order = source.order(everything, seed=1, epoch=0)
    monkeypatch.setattr(stream, "BUFFER", 0)
    undisturbed = source.order(everything, seed=1, epoch=0)
    assert all(set(undisturbed[first : first + 8] // 8) == {undisturbed[first] // 8} for first in range(0, 320, 8))
    places = {int(index): place for place, index in enumerate(undisturbed)}
    moves = np.array([place - places[int(index)] for place, index in enumerate(order)])
    assert 25 < moves.max() <= 50
    assert -50 <= moves.min() < -25


def test_groups_come_in_another_order_for_each_seed_and_epoch(monkeypatch):
    """Oracle: four orders of groups of one image, none like another; each group is somewhere."""
    monkeypatch.setattr(stream, "BUFFER", 0)
    source = Numbered(*[1] * 12)
    found = [source.order(np.arange(12), seed=seed, epoch=epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, found))) == 4
    assert all(sorted(order) == list(range(12)) for order in found)


def test_a_validation_split_is_left_out():
    """Oracle: the indices given; the others are never seen."""
    source = Numbered(*[10] * 5)
    seen = orders(source, indices=np.arange(1, 50, 2))
    assert sorted(index for chunk in seen for index in chunk) == list(range(1, 50, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_testing_reads_each_group_once(workers):
    """Oracle: the indices, in order; the groups that hold them."""
    source = Numbered(10, 20, 5, 5)
    indices = np.array([3, 4, 11, 29, 36, 39])
    seen = list(EvalBatches(source, PREPROCESS, 4, workers, indices))
    assert [index for batch in seen for index in shown(batch.images)] == indices.tolist()
    assert source.reads == [1, 1, 0, 1]
    whole = torch.stack(list(WholeImages(source, PREPROCESS, workers)))
    assert shown(whole) == list(range(40))
    assert source.reads == [2, 2, 1, 2]


def test_images_one_by_one():
    """Oracle: the index; in order each group is read once."""
    source = Numbered(4, 3, 5)
    assert [source.read(index).getpixel((0, 0))[0] for index in range(12)] == list(range(12))
    assert source.reads == [1, 1, 1]
    assert source.describe(6) == "row 6"


def test_bad_images_and_bad_groups(monkeypatch):
    """Oracle: the contract: an image is named, and skipped on request; a group that cannot be read ends it."""
    source = Numbered(5, 5)
    monkeypatch.setattr(source.parts[1], "read", lambda: [b"", b"?", *map(encoded, (7, 8, 9))])
    with pytest.raises(ImageError, match=r"^row 5: the file is empty"):
        list(EvalBatches(source, PREPROCESS, 4))
    heard = []
    seen = list(EvalBatches(source, PREPROCESS, 4, skip=lambda index, error: heard.append(index)))
    assert heard == [5, 6]
    assert [index for batch in seen for index in shown(batch.images)] == [0, 1, 2, 3, 4, 7, 8, 9]

    def fail():
        raise DataError("no such file")

    monkeypatch.setattr(source.parts[1], "read", fail)
    for workers in (0, 2):
        with pytest.raises(DataError, match="^no such file$"):
            list(EvalBatches(source, PREPROCESS, 4, workers))


def test_boxes_are_not_streamed():
    """Oracle: the contract."""
    with pytest.raises(DataError, match="boxes are not streamed"):
        Numbered(5, 5).boxes()
