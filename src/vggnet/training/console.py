"""What a training shows: a bar for each epoch on a terminal, lines elsewhere, and a line for each finished epoch."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Self

from tqdm import tqdm

from vggnet.progress import Lines, Progress, format_duration
from vggnet.tasks.task import Task
from vggnet.training.loop import Position, Row

ESTIMATE_AFTER = 10  # steps
ESTIMATE_FROM = 60  # seconds to go; shorter runs need no estimate
ADVISED = (2, 5)  # epochs after which a training that has learned nothing gets advice
NAMED = 10  # unreadable images at a time; all of them are in a file
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left, {rate_fmt}{postfix}"  # fits into 80 columns


class Console:
    """Shows a training on stderr while entered, or reports its steps to a function.

    Args:
        task: names the metrics.
        epochs: of the run.
        steps_per_epoch: at least 1.
        progress: True shows all, False nothing; a function gets (steps done, steps of the whole run) after each step.
    """

    def __init__(self, task: Task, epochs: int, steps_per_epoch: int, *, progress: Progress) -> None:
        self.task = task
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.visible = progress is True
        self.report = (lambda done, total: None) if isinstance(progress, bool) else progress
        self.bar: tqdm[None] = tqdm(disable=True)
        self.steps = 0  # seen by this process
        self.started = 0.0
        self.named = 0  # of the images that cannot be read
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.visible and not sys.stderr.isatty():
            self.report = self._stack.enter_context(Lines("training", "step")).update
        return self

    def __exit__(self, *raised: object) -> None:
        self.bar.close()
        self._stack.close()

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
        """Show one more step, with the metrics of the epoch so far."""
        self.bar.update()
        if position.images and not self.bar.disable:
            metrics = self.task.metrics(position.sums, position.images)
            self.bar.set_postfix_str(_text(metrics, digits=1, names=False))
        self.report(position.epoch * self.steps_per_epoch + position.step, self.epochs * self.steps_per_epoch)
        self.steps += 1
        if self.steps == 1:
            self.started = perf_counter()  # the first step also warms up
        elif self.steps == 1 + ESTIMATE_AFTER:
            self._estimate(position, (perf_counter() - self.started) / ESTIMATE_AFTER)

    def epoch(self, row: Row, best: Row) -> None:
        """Show the row of a finished epoch beside the best so far."""
        self.bar.close()
        parts = [f"epoch {row['epoch']}/{self.epochs}", f"{row['seconds']:.1f} s"]
        for split in ("train", "val"):
            metrics = {name.removeprefix(f"{split}_"): row[name] for name in row if name.startswith(f"{split}_")}
            if metrics:
                parts.append(f"{split} {_text(metrics, digits=2)}")
        if any(name.startswith("val_") for name in row):
            parts.append(f"best {100 * self.task.score(best):.2f} % (epoch {best['epoch']})")
        self.note(" | ".join(parts))
        if row["epoch"] in ADVISED and (advice := self.task.advice(row)):
            self.note(advice)

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

    def _estimate(self, position: Position, seconds_per_step: float) -> None:
        left = (self.epochs - position.epoch) * self.steps_per_epoch - position.step
        if left * seconds_per_step >= ESTIMATE_FROM:
            self.note(
                f"about {format_duration(left * seconds_per_step)} to go: {left:,} steps of {seconds_per_step:.3g} s, "
                "without validation. Ctrl-C saves and stops."
            )


def _text(metrics: Mapping[str, float], digits: int, *, names: bool = True) -> str:
    """Losses as they are, all other metrics as percentages; two more digits for the loss."""
    shown = []
    for name, value in metrics.items():
        if name.endswith("loss"):
            shown.append(f"{name.replace('_', ' ')} {value:.{digits + 2}f}")
        else:
            shown.append(f"{f'{name} '.replace('_', ' ') if names else ''}{100 * value:.{digits}f} %")
    return ", ".join(shown)
