"""What torchrun starts for a test: trainings one after the other. Each process says how each of them ended.

A job is what `vggnet.train` takes, or only "out" to resume. "fault" says what befalls which rank at which step,
"lopsided" that the first rank gets all images.
"""

import json
import os
import signal
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

from trainings import train

import vggnet
from vggnet.models import heads
from vggnet.tasks.classify import Classify
from vggnet.training.distributed import Ranks
from vggnet.training.loop import Position

RANK = int(os.environ["RANK"])
heads.FC_WIDTH = 64  # the layers with dropout; those of the paper would take most of the time


def finish(out, fault=None, lopsided=False, data="digits", **fields):
    share = patch.object(Ranks, "share", lambda self, indices: indices if self.is_first else indices[:0])
    try:
        with befallen(fault) if fault and fault["rank"] == RANK else share if lopsided else nullcontext():
            run = train(data, out=out, **fields) if fields else vggnet.resume(out)
    except vggnet.errors.VGGError as error:
        return f"{type(error).__name__}: {error}"
    return "finished" if run.finished else "stopped"


@contextmanager
def befallen(fault):
    """The signal `fault["signal"]` after the step "epoch:step", or without a signal a loss that is no number in it."""
    count, loss, position = Position.count, Classify.loss, Position()

    def signalling(self, *arguments):
        count(self, *arguments)
        position.epoch, position.step = self.epoch, self.step
        if "signal" in fault and f"{self.epoch}:{self.step}" == fault["step"]:
            assert os.getpgrp() == os.getpid()  # torchrun makes and signals groups of a rank and its loader workers
            os.killpg(os.getpid(), getattr(signal, fault["signal"]))

    def poisoned(self, *arguments):
        found = loss(self, *arguments)
        now = f"{position.epoch}:{position.step + 1}" == fault["step"] and "signal" not in fault
        return found._replace(sums=found.sums * float("nan")) if now else found

    with patch.object(Position, "count", signalling), patch.object(Classify, "loss", poisoned):
        yield


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text()):
        sys.stdout.write(json.dumps([RANK, finish(**job)]) + "\n")  # at once: the ranks share the pipe
        sys.stdout.flush()
