"""Dynamic batching, by works whose batches are noted."""

import asyncio
import threading

import pytest

from vggnet.serving.batcher import Batcher, Work
from vggnet.serving.limits import Limits
from vggnet.serving.refusals import Overloaded
from vggnet.serving.telemetry import Telemetry


class Held:
    """Work that notes its batches, and waits until it may go on."""

    def __init__(self, most):
        self.batches, self.started, self.free = [], threading.Event(), threading.Event()
        self.work = Work(self, most)

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.set()
        assert self.free.wait(60)
        return [ValueError("odd one") if item == "bad" else 10 * item for item in items]


@pytest.fixture
def batcher():
    made = Batcher("m", Limits(queue=6, max_images=1, batch_wait=60), Telemetry())
    yield made
    made.close()
    made._thread.join(60)
    assert not made._thread.is_alive()


async def ask(batcher, work, items, admission=None):
    with admission or batcher.admit(len(items)) as admitted:
        return await admitted.compute(work, items)


def test_what_waits_is_computed_together(batcher):
    """Oracle: the batches, by hand: the first one alone, then the oldest work with all that fits, in order."""
    small, large = Held(2), Held(4)

    async def all_at_once():
        tasks = [asyncio.create_task(ask(batcher, small.work, [0]))]
        await asyncio.to_thread(small.started.wait, 60)
        for held, item in ((large, 1), (small, 2), (large, 3), (large, 4), (small, 5)):
            tasks.append(asyncio.create_task(ask(batcher, held.work, [item])))
        await asyncio.sleep(0)
        small.free.set()
        large.free.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(all_at_once()) == [[0], [10], [20], [30], [40], [50]]
    assert (small.batches, large.batches) == ([[0], [2, 5]], [[1, 3, 4]])


def test_an_image_waits_for_those_that_are_being_decoded(batcher):
    """Oracle: one batch, although the second image comes later; alone it would have waited for a minute."""
    held = Held(4)
    held.free.set()

    async def two():
        late = batcher.admit(1)
        first = asyncio.create_task(ask(batcher, held.work, [1]))
        assert not await asyncio.to_thread(held.started.wait, 0.2)
        return [await ask(batcher, held.work, [2], late), await first]

    assert asyncio.run(two()) == [[20], [10]]
    assert held.batches == [[1, 2]]
    assert asyncio.run(ask(batcher, held.work, [3])) == [30]  # nothing is coming


def test_a_full_queue_refuses_and_forgets_what_is_given_up(batcher):
    """Oracle: the limit of 6 images, counted by hand, whether they are decoded, wait or are computed."""
    held = Held(1)

    async def overload():
        first = asyncio.create_task(ask(batcher, held.work, [1]))
        await asyncio.to_thread(held.started.wait, 60)
        waiting = asyncio.create_task(ask(batcher, held.work, [2, 3]))
        decoding = batcher.admit(3)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="model m has 6 images to answer; try again in 1 s") as refused:
            batcher.admit(1)
        assert refused.value.headers["Retry-After"] == "1"
        decoding.__exit__()
        waiting.cancel()
        await asyncio.wait([waiting])
        held.free.set()
        return [await first, await ask(batcher, held.work, [4, 5, 6])]

    assert asyncio.run(overload()) == [[10], [40, 50, 60]]
    assert held.batches == [[1], [4], [5], [6]]  # 2 and 3 were given up before they were computed


def test_an_error_is_raised_where_it_belongs(batcher):
    held = Held(4)
    held.free.set()

    async def mixed():
        late = batcher.admit(1)
        bad = asyncio.create_task(ask(batcher, held.work, ["bad"]))
        await asyncio.sleep(0)
        good = await ask(batcher, held.work, [7], late)
        with pytest.raises(ValueError, match="odd one"):
            await bad
        return good

    assert asyncio.run(mixed()) == [70]
    assert held.batches == [["bad", 7]]


def test_a_broken_work_costs_its_batch_alone(batcher):
    def broken(items):
        raise MemoryError("too much")

    with pytest.raises(MemoryError):
        asyncio.run(ask(batcher, Work(broken, 2), [1]))
    assert asyncio.run(ask(batcher, Work(list, 2), [1])) == [1]


def test_an_event_loop_that_has_ended_costs_no_other_its_answer(batcher):
    """Oracle: the thread is still there for the next one."""
    held = Held(1)

    async def give_up():
        asking = asyncio.create_task(ask(batcher, held.work, [1]))
        await asyncio.to_thread(held.started.wait, 60)
        asking.cancel()

    asyncio.run(give_up())
    held.free.set()
    assert asyncio.run(asyncio.wait_for(ask(batcher, held.work, [2]), 60)) == [20]
