"""Batches: every image once with its label, in an order that seed and epoch fix, whoever loads them."""

import gc
import io
import multiprocessing
import os
import random
import signal
import sys
import threading
import weakref
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image

from vggnet.data import workers
from vggnet.data.decoded import decoded, forget_decoded
from vggnet.data.decoding import StoredImage
from vggnet.data.loading import (
    BalancedBatches,
    EvalBatches,
    StreamBatches,
    TrainBatches,
    WholeImages,
    default_workers,
    of_one_size,
)
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.data.sources.stream import Stream
from vggnet.data.workers import CropView, lost_workers_named
from vggnet.errors import DataError, ImageError

LARGE = Preprocess(resize=80, crop=72)
SMALL = Preprocess(resize=8, crop=8)


class Flat(Source):
    """Flat images whose gray value is their index; those in `bad` cannot be read."""

    def __init__(self, count, bad=(), size=(9, 8)):
        super().__init__(name="flat", split="train", classes=("a", "b", "c"), labels=np.arange(count) % 3)
        self.bad, self.size = set(bad), size

    def open(self, index):
        if index in self.bad:
            raise ImageError("broken")
        return StoredImage(Image.new("RGB", self.size, (index,) * 3), self.describe(index))

    def describe(self, index):
        return f"image {index}"

    @property
    def fingerprint(self):
        return f"{len(self)}-{sorted(self.bad)}"


class Encoded:
    """A group of a stream."""

    def __init__(self, indices):
        self.indices = indices

    def __len__(self):
        return len(self.indices)

    def read(self):
        return [bmp(index) for index in self.indices]

    def describe(self, place):
        return f"row {self.indices[place]}"


def bmp(index):
    data = io.BytesIO()
    Image.new("RGB", (80, 80), (index,) * 3).save(data, "BMP")
    return data.getvalue()


def a_stream(count, group=5):
    groups = [Encoded(range(first, min(first + group, count))) for first in range(0, count, group)]
    options = {"name": "stream", "split": "train", "classes": ("a", "b"), "fingerprint": "0" * 16}
    return Stream(groups, labels=np.arange(count) % 2, **options)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    forget_decoded()
    yield
    forget_decoded()


def train(source, preprocess=SMALL, size=8, **options):
    return TrainBatches(source, preprocess, size, **{"indices": np.arange(len(source)), "seed": 1, **options})


def shown(batch):
    """The indices that the pixels tell."""
    return [int(image[0, 0, 0]) for image in batch.images]


def process_view(image, epoch, index):
    """A view that says which process made it, and for which epoch."""
    pixels = torch.zeros(2, 2, 2, dtype=torch.uint8)
    pixels[0].flatten()[:] = torch.tensor(list(os.getpid().to_bytes(4, "little")), dtype=torch.uint8)
    pixels[1, 0] = torch.tensor([epoch, index])
    return pixels


def complaint(batches):
    """The error that ends them. pytest.raises would keep its traceback, and with it worker processes, for a while."""
    try:
        for _ in batches:
            pass
    except (DataError, AssertionError) as error:
        return str(error)


def processes(batches):
    return {tuple(image[0].flatten().tolist()) for batch in batches for image in batch.images}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9), st.integers(0, 3))
def test_balanced_epochs(sizes, seed, epoch):
    """Oracle: counting: classes, and the images within each, are seen equally often, give or take one."""
    labels = np.repeat(np.arange(len(sizes)) * 2, sizes)  # of a class between there is no image
    source = Flat(len(labels) + 3)
    source.labels = np.concatenate([labels, [0, 1, 1]])  # the last three images are not trained on
    batches = BalancedBatches(source, SMALL, 8, indices=np.arange(len(labels)), seed=seed)
    drawn = torch.cat(batches._epoch_chunks(epoch)).tolist()
    assert len(drawn) == len(labels)
    assert len(batches._epoch_chunks(epoch)) == len(batches)
    of_class = Counter(labels[index] for index in drawn)
    assert max(of_class.values()) - min(of_class[label] for label in set(labels.tolist())) <= 1
    for label in set(labels.tolist()):
        seen = Counter(dict.fromkeys(np.flatnonzero(labels == label), 0))
        seen.update(index for index in drawn if labels[index] == label)
        assert max(seen.values()) - min(seen.values()) <= 1
    again = BalancedBatches(source, SMALL, 8, indices=np.arange(len(labels)), seed=seed)
    assert torch.cat(again._epoch_chunks(epoch)).tolist() == drawn


@pytest.mark.parametrize("preprocess", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(("count", "size", "batches"), [(10, 4, 3), (9, 4, 3), (8, 4, 2), (1, 4, 1), (5, 1, 5)])
def test_an_epoch_sees_every_image_once(count, size, batches, preprocess):
    """Oracle: the set of indices; pixels and labels are the indexed image's; sizes differ by one at most."""
    batches_of = train(Flat(count), preprocess, size)
    seen = list(batches_of.epoch(0))
    assert len(seen) == len(batches_of) == batches
    sizes = [len(batch.indices) for batch in seen]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    assert sorted(torch.cat([batch.indices for batch in seen]).tolist()) == list(range(count))
    for batch in seen:
        assert shown(batch) == batch.indices.tolist()
        assert torch.equal(batch.labels, batch.indices % 3)
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, preprocess.crop, preprocess.crop)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_is_a_function_of_seed_and_epoch(workers):
    """Oracle: the tail of the whole epoch; other seeds and epochs give other orders."""

    def order(seed, epoch, start=0):
        batches = train(Flat(40), LARGE, seed=seed, workers=workers)
        return [batch.indices.tolist() for batch in batches.epoch(epoch, start)]

    assert order(1, 2, start=3) == order(1, 2)[3:]
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_worker_processes_stay_for_all_epochs():
    """Oracle: the numbers of the processes that made the images; the epoch and the image that each was asked for."""
    batches = train(Flat(12), LARGE, 3, view=process_view, workers=2)
    epochs = [list(batches.epoch(epoch)) for epoch in range(3)]
    assert processes(epochs[0]) == processes(epochs[1]) == processes(epochs[2])
    assert len(processes(epochs[0])) == 2
    assert tuple(os.getpid().to_bytes(4, "little")) not in processes(epochs[0])
    for epoch, seen in enumerate(epochs):
        found = [(int(image[1, 0, 0]), int(image[1, 0, 1])) for batch in seen for image in batch.images]
        assert found == [(epoch, index) for batch in seen for index in batch.indices.tolist()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_epoch_that_was_left_does_not_reach_into_the_next(workers, streamed):
    """Oracle: the same epochs by loaders of their own."""

    def make():
        if streamed:
            return StreamBatches(a_stream(40), LARGE, 4, indices=np.arange(40), seed=1, workers=workers)
        return train(Flat(40), LARGE, 4, workers=workers)

    batches = make()
    left = batches.epoch(0)
    assert next(left).indices.tolist() == next(make().epoch(0)).indices.tolist()
    for epoch, start in ((1, 0), (1, 7), (5, 3), (0, 0)):
        found, expected = (list(each.epoch(epoch, start)) for each in (batches, make()))
        assert [shown(batch) for batch in found] == [batch.indices.tolist() for batch in expected]
        for one, other in zip(found, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert complaint(left).startswith("another epoch was started")


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_random_number_is_drawn(workers):
    """Oracle: the states of the global generators before."""
    batches = train(Flat(8), LARGE, 4, workers=workers)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    for epoch in range(2):
        list(batches.epoch(epoch))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_worker_batches_equal_the_batches_of_one_process():
    """Oracle: no workers; images lie in memory with their channels last."""
    alone, workers = (list(EvalBatches(Flat(7), LARGE, 3, workers=count)) for count in (0, 2))
    assert [shown(batch) for batch in alone] == [[0, 1, 2], [3, 4], [5, 6]]
    for one, other in zip(alone, workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
        assert one.images.stride(1) == other.images.stride(1) == 1


def test_a_share_of_each_batch():
    """Oracle: the batches of one process, taken apart by hand."""
    whole = [batch.indices for batch in train(Flat(20), size=6).epoch(3)]
    parts = [train(Flat(20), size=6, share=lambda chunk, rank=rank: chunk[rank::2]).epoch(3) for rank in range(2)]
    for indices, first, second in zip(whole, *parts, strict=True):
        assert first.indices.tolist() == indices[0::2].tolist()
        assert shown(second) == second.indices.tolist() == indices[1::2].tolist()


@pytest.mark.parametrize(("preprocess", "workers"), [(SMALL, 0), (LARGE, 0), (LARGE, 2)])
@pytest.mark.parametrize("view", [None, "crop", "image"])
def test_batches_lack_what_cannot_be_read(preprocess, workers, view):
    """Oracle: the batches of the same images, all sound, with the bad ones taken out by hand."""
    bad, heard = {3, 4, 11}, []
    views = {"crop": CropView(decode), "image": decode, None: None}
    options = {"view": views[view], "workers": workers, "indices": np.arange(2, 20)}
    sound = train(Flat(20), preprocess, 2, **options)
    partly = train(Flat(20, bad), preprocess, 2, skip=lambda index, error: heard.append((index, error)), **options)
    for whole, part in zip(sound.epoch(0), partly.epoch(0), strict=True):
        left = [place for place, index in enumerate(whole.indices.tolist()) if index not in bad]
        assert part.indices.tolist() == whole.indices[left].tolist() == shown(part)
        assert part.labels.tolist() == whole.labels[left].tolist()
    assert sorted(index for index, _ in heard) == sorted(bad)
    assert {str(error) for _, error in heard} == {f"image {index}: broken" for index in bad}
    assert all(error.name == f"image {index}" for index, error in heard)
    stopping = train(Flat(20, bad), preprocess, 2, **options) if view or preprocess is LARGE else None
    assert stopping is None or complaint(stopping.epoch(0)) in {f"image {index}: broken" for index in bad}


def decode(image, epoch, index):
    return torch.from_numpy(np.array(image.decode())).permute(2, 0, 1)


def test_small_images_are_read_before_the_first_batch():
    """Oracle: the contract."""
    with pytest.raises(ImageError, match="^image 3: broken$"):
        train(Flat(20, {3, 4}))


def test_empty_batches_are_no_batches_to_evaluate():
    """Oracle: the images that are left."""
    batches = EvalBatches(Flat(6, bad={0, 1, 5}), LARGE, 2, skip=lambda index, error: None)
    assert [batch.indices.tolist() for batch in batches] == [[2, 3], [4]]
    assert len(batches) == 3


@pytest.mark.parametrize("make", [EvalBatches, train])
def test_decoding_reports_its_progress(make):
    """Oracle: every image is counted once, for the view of whole crops as well; nothing is decoded again."""
    heard = []
    make(Flat(3), SMALL, 2, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    train(Flat(4), SMALL, 2, view=CropView(decode), progress=lambda done, total: heard.append((done, total)))
    assert heard[3:] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_whole_images(workers):
    """Oracle: the index, and the size by hand: 9 x 8 pixels enlarged to a shorter side of 80."""
    images = list(WholeImages(Flat(5), LARGE, workers))
    assert [(int(image[0, 0, 0]), tuple(image.shape)) for image in images] == [(n, (3, 80, 90)) for n in range(5)]
    assert complaint(WholeImages(Flat(5, bad={2}), LARGE, workers)) == "image 2: broken"


def from_whole_images(source, *, workers):
    return WholeImages(source, LARGE, workers)


def to_evaluate(source, *, workers):
    return EvalBatches(source, LARGE, 2, workers)


def to_train(source, *, workers):
    return train(source, LARGE, 2, workers=workers).epoch(0)


@pytest.mark.parametrize("make", [from_whole_images, to_evaluate, to_train])
def test_workers_end_with_the_error(make):
    """Oracle: no process is left although nothing collects garbage, which would wait 5 s for each."""
    gc.disable()
    try:
        assert complaint(make(Flat(9, bad={4}), workers=2)) == "image 4: broken"
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_a_kept_error_keeps_no_frames():
    """Oracle: the object that a frame between refers to is freed with the exception."""

    class Large:
        pass

    def load():
        large = Large()
        seen.append(weakref.ref(large))
        decoded(source, SMALL)

    source, seen = Flat(5, bad={2}), []
    gc.disable()
    try:
        for _ in range(2):  # the second time by what is kept
            with suppress(ImageError):
                load()
        assert [reference() for reference in seen] == [None, None]
    finally:
        gc.enable()


def test_stacks_of_one_size():
    """Oracle: by hand: at most 24 pixels of a channel together."""
    sizes = [(2, 4), (2, 4), (2, 4), (2, 4), (4, 2), (2, 4), (9, 9), (9, 9)]
    images = [torch.full((1, *size), number) for number, size in enumerate(sizes)]
    stacks = [stack[:, 0, 0, 0].tolist() for stack in of_one_size(images, 24)]
    assert stacks == [[0, 1, 2], [3], [4], [5], [6], [7]]


def test_a_source_that_fails_ends_the_epoch():
    """Oracle: the contract, also with workers that stay."""
    source = a_stream(20)
    batches = StreamBatches(source, LARGE, 4, indices=np.arange(20), seed=1, workers=2)
    assert sum(len(batch.indices) for batch in batches.epoch(0)) == 20

    def fail():
        raise DataError("gone")

    source._groups[2].read = fail
    assert complaint(batches.epoch(1)) == "gone"
    del source._groups[2].read
    assert sum(len(batch.indices) for batch in batches.epoch(1)) == 20


def test_workers_by_default(monkeypatch):
    """Oracle: the contract: none for small images, else one a core, eight at most."""
    for cores, expected in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr("vggnet.data.loading.usable_cores", lambda cores=cores: cores)
        assert [default_workers(Preprocess(resize=100, crop=crop)) for crop in (64, 65)] == [0, expected]


def killed_view(image, epoch, index):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line():
    """Oracle: a worker that really is killed, as by a system without memory; PyTorch says it in many lines."""
    batches = train(Flat(8), LARGE, workers=1, view=killed_view)
    with (
        pytest.raises(DataError, match=r"a loader process has ended .*--resume.*--workers") as caught,
        lost_workers_named(),
    ):
        list(batches.epoch(0))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RuntimeError, match="another"), lost_workers_named():
        raise RuntimeError("another")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), ConnectionRefusedError(111, "no"), EOFError()])
def test_a_worker_that_is_killed_while_it_hands_over_a_batch(error):
    """Oracle: what multiprocessing raises then, as seen in a training whose worker was killed after each step."""
    with pytest.raises(DataError, match="a loader process has ended .*--workers") as caught, lost_workers_named():
        raise error
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(BrokenPipeError), lost_workers_named():  # the reader of our output has seen enough
        raise BrokenPipeError


def kill_in_is_set(line):
    """A view whose process is killed at the nth line of an event's `is_set`, by which a worker asks whether to end."""

    def count(frame, event, argument):
        if event == "line":
            seen.append(frame.f_lineno)
        if len(seen) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    def trace(frame, event, argument):
        code = frame.f_code
        return count if code.co_name == "is_set" and code.co_filename != threading.__file__ else None

    def view(image, epoch, index):
        sys.settrace(trace)
        return torch.zeros(3, 8, 8, dtype=torch.uint8)

    seen = []
    return view


@pytest.mark.parametrize("line", [1, 2])
def test_a_worker_that_is_killed_while_it_asks_whether_to_end(line):
    """Oracle: the others can be told to end, which PyTorch's own event would wait for without an end."""
    batches = train(Flat(8), LARGE, size=2, workers=1, view=kill_in_is_set(line))
    with pytest.raises(DataError, match="a loader process has ended"), lost_workers_named():
        list(batches.epoch(0))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("free", [0, 10**9])
def test_a_small_shared_memory_is_not_filled(monkeypatch, free):
    """Oracle: the batches of this process; what workers send is in shared memory only if there is room."""
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    found = list(train(Flat(9), LARGE, workers=1).epoch(0))
    for batch, expected in zip(found, train(Flat(9), LARGE).epoch(0), strict=True):
        assert torch.equal(batch.images, expected.images)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.is_shared() is (free > 0)
    whole = list(WholeImages(Flat(3), LARGE, workers=1))
    assert [int(image[0, 0, 0]) for image in whole] == [0, 1, 2]
    assert [image.is_shared() for image in whole] == [free > 0] * 3


def test_workers_start_where_there_are_no_groups_of_processes(monkeypatch):
    """Oracle: this process. Windows has no os.setpgrp."""
    monkeypatch.delattr(os, "setpgrp")
    found = [batch.indices.tolist() for batch in train(Flat(9), LARGE, workers=1).epoch(0)]
    assert found == [batch.indices.tolist() for batch in train(Flat(9), LARGE).epoch(0)]
