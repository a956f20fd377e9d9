"""What a person sees while a network trains: a bar for each epoch, a line after it, an estimate at the start."""

import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from vggnet.training.loop import Position, Row

ESTIMATE_AFTER = 10  # steps
ESTIMATE_FROM = 60  # seconds to go; nobody plans for less
NAMED = 10  # unreadable images at a time; all of them are in a file
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left, {rate_fmt}{postfix}"  # fits into 80 columns


class Progress:
    """Writes to stderr if `visible`; the bar appears on terminals only, the lines everywhere."""

    def __init__(self, epochs: int, steps_per_epoch: int, *, visible: bool) -> None:
        self.visible = visible
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.bar: tqdm[None] = tqdm(disable=True)
        self.steps = 0  # seen by this process
        self.started = 0.0
        self.named = 0  # of the images that cannot be read

    def begin(self, position: Position) -> None:
        """Show the bar of an epoch before its first step, or where an interrupted one goes on."""
        self.bar = tqdm(
            desc=f"epoch {position.epoch + 1}/{self.epochs}",
            total=self.steps_per_epoch,
            initial=position.step,
            unit="step",
            bar_format=BAR,
            leave=False,
            disable=None if self.visible else True,
        )

    def step(self, position: Position) -> None:
        """Show one more step, with loss and accuracy of the epoch so far."""
        self.bar.update()
        if position.images:
            loss, accuracy = (value / position.images for value in position.sums)
            self.bar.set_postfix_str(f"loss {loss:.3f}, {100 * accuracy:.1f} %")
        self.steps += 1
        if self.steps == 1:
            self.started = perf_counter()  # the first step also warms up
        elif self.steps == 1 + ESTIMATE_AFTER:
            self._estimate(position, (perf_counter() - self.started) / ESTIMATE_AFTER)

    def epoch(self, row: Row, best: Row) -> None:
        """Show the row of a finished epoch beside the best so far."""
        self.close()
        parts = [
            f"epoch {row['epoch']}/{self.epochs}",
            f"{row['seconds']:.1f} s",
            f"train loss {row['train_loss']:.4f}, accuracy {100 * row['train_accuracy']:.2f} %",
        ]
        if "val_accuracy" in row:
            parts.append(f"val loss {row['val_loss']:.4f}, accuracy {100 * row['val_accuracy']:.2f} %")
            parts.append(f"best {100 * best['val_accuracy']:.2f} % (epoch {best['epoch']})")
        self.note(" | ".join(parts))

    def skipped(self, messages: Mapping[str, str], file: Path) -> None:
        """Count the images that cannot be read, and name those that were not named before; `file` has all of them."""
        new, self.named = list(messages.values())[self.named :], len(messages)
        if new:
            self.note(f"skipped so far, as they cannot be read: {len(messages):,} (all of them in {file})")
            for message in new[:NAMED]:
                self.note(f"  {message}")
            if len(new) > NAMED:
                self.note(f"  and {len(new) - NAMED:,} more")

    def note(self, text: str) -> None:
        """Show one line."""
        if self.visible:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def _estimate(self, position: Position, seconds_per_step: float) -> None:
        left = (self.epochs - position.epoch) * self.steps_per_epoch - position.step
        if left * seconds_per_step >= ESTIMATE_FROM:
            self.note(
                f"about {_duration(left * seconds_per_step)} to go: {left:,} steps of {seconds_per_step:.3g} s, "
                "without validation. Ctrl-C saves and stops."
            )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
