"""Dynamic batching: one compute thread for each model, with a bounded queue."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from vggnet.serving.limits import Limits
from vggnet.serving.refusals import Overloaded
from vggnet.serving.telemetry import Telemetry

FORGET = 0.1  # share of the last batch in the mean time of an image


@dataclass(frozen=True, eq=False)
class Work:
    """Something to compute of several inputs at once.

    Args:
        compute: inputs -> as many results; an exception among them is raised to the one who waits for it.
        most: inputs that are computed together.
    """

    compute: Callable[[Sequence[Any]], Sequence[Any]]
    most: int


@dataclass(frozen=True, eq=False)
class _Job:
    work: Work
    input: Any
    future: "asyncio.Future[Any]"  # of the loop that waits for the result
    since: float = field(default_factory=monotonic)


class Batcher:
    """The compute thread of a model.

    It takes the oldest input, and with it up to `Work.most` inputs of the same work. It waits for more of them at most
    `Limits.batch_wait` seconds, and only while images are being decoded for this model.

    Args:
        name: of the model.
        limits: see `Limits`.
        telemetry: gets the sizes of batches and the times.
    """

    def __init__(self, name: str, limits: Limits, telemetry: Telemetry) -> None:
        self._name, self._limits, self._telemetry = name, limits, telemetry
        self._changed = threading.Condition()
        self._jobs: list[_Job] = []
        self._coming = 0  # images that are admitted and not submitted
        self._computing = 0
        self._closed = False
        self._seconds = 0.1  # for an image, the moving average
        self._thread = threading.Thread(target=self._run, name=f"compute {name}", daemon=True)
        self._thread.start()

    def admit(self, images: int) -> "Admission":
        """Room for the images of a request, to be used as a context manager.

        Raises:
            Overloaded: there is none.
        """
        with self._changed:
            accepted = self._coming + len(self._jobs) + self._computing
            if accepted + images > self._limits.queue:
                raise Overloaded(f"model {self._name} has {accepted} images to answer", accepted * self._seconds)
            self._coming += images
            self._count()
        return Admission(self, images)

    def submit(self, work: Work, items: Sequence[Any]) -> "list[asyncio.Future[Any]]":
        """Put inputs of an admitted request in the queue, from the event loop that waits for their results."""
        loop = asyncio.get_running_loop()
        jobs = [_Job(work, item, loop.create_future()) for item in items]
        with self._changed:
            self._coming -= len(jobs)
            self._jobs += jobs
            self._changed.notify_all()
        return [job.future for job in jobs]

    def release(self, images: int) -> None:
        """Images that are admitted will not be submitted."""
        with self._changed:
            self._coming -= images
            self._count()
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread once everything that was admitted is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        stages = self._telemetry.stages
        wait, compute = (stages.labels(self._name, stage) for stage in ("wait", "compute"))
        while jobs := self._next():
            start = monotonic()
            _answer(jobs)
            seconds = (monotonic() - start) / len(jobs)
            self._telemetry.batches.labels(self._name).observe(len(jobs))
            for job in jobs:
                wait.observe(start - job.since)
                compute.observe(seconds)
            with self._changed:
                self._computing = 0
                self._seconds += FORGET * (seconds - self._seconds)
                self._count()

    def _next(self) -> list[_Job]:
        """The next batch, without jobs that were given up; empty at the end."""
        with self._changed:
            while True:
                while not self._jobs and not (self._closed and not self._coming):
                    self._changed.wait()
                if not self._jobs:
                    return []
                self._wait_for_more()
                work = self._jobs[0].work
                taken = [job for job in self._jobs if job.work is work][: work.most]
                self._jobs = [job for job in self._jobs if job not in taken]
                running = [job for job in taken if not job.future.cancelled()]
                self._computing = len(running)
                self._count()
                if running:
                    return running

    def _wait_for_more(self) -> None:
        work, end = self._jobs[0].work, self._jobs[0].since + self._limits.batch_wait
        while self._coming and sum(job.work is work for job in self._jobs) < work.most:
            rest = end - monotonic()
            if rest <= 0:
                return
            self._changed.wait(rest)

    def _count(self) -> None:
        self._telemetry.queue.labels(self._name).set(self._coming + len(self._jobs) + self._computing)


class Admission:
    """Room in the queue for the images of one request. Leaving the block gives back what was not used.

    Args:
        batcher: that admitted them.
        images: how many.
    """

    def __init__(self, batcher: Batcher, images: int) -> None:
        self._batcher, self._rest = batcher, images

    def __enter__(self) -> "Admission":
        return self

    def __exit__(self, *_: object) -> None:
        self._batcher.release(self._rest)

    async def compute(self, work: Work, items: Sequence[Any]) -> list[Any]:
        """The results for inputs, in their order; at most as many as were admitted.

        Raises:
            Exception: what computing one of them raised.
        """
        self._rest -= len(items)
        return await asyncio.gather(*self._batcher.submit(work, items))


def _answer(jobs: Sequence[_Job]) -> None:
    try:
        results = jobs[0].work.compute([job.input for job in jobs])
    except Exception as error:  # whatever it is belongs to those who wait
        results = [error] * len(jobs)
    found = defaultdict(list)
    for job, result in zip(jobs, results, strict=True):
        found[job.future.get_loop()].append((job.future, result))
    for loop, answers in found.items():  # a loop is woken once for all of them
        with suppress(RuntimeError):  # it was closed
            loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: "Sequence[tuple[asyncio.Future[Any], Any]]") -> None:
    """In the event loop."""
    for future, result in answers:
        if future.cancelled():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
