"""Images per second: `BatchAugment` against the tutorial's torchvision pipeline, on random 32x32 images.

python -m experiments.benchmarks.augment

Both do crop, flip, rotation and color jitter, in one process, in turns; the numbers are medians.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from experiments import page
from vggnet.data.augmentation import BatchAugment
from vggnet.data.tutorial_augmentation import article_augment
from vggnet.report.text import to_json

BATCH_SIZES = (128, 512, 1024)
IMAGES = 1024  # each turn of BatchAugment goes once over these
TUTORIAL_IMAGES = 256  # each turn of the tutorial's pipeline
AUGMENT = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, padding="zero")


def seconds(work: Callable[[], None]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(array: np.ndarray, batch_size: int, threads: int, repeats: int) -> dict[str, float]:
    """Median images per second of both, and the ratio. array: uint8 (IMAGES, 32, 32, 3)."""
    torch.set_num_threads(threads)
    images = [Image.fromarray(pixels) for pixels in array[:TUTORIAL_IMAGES]]
    pixels = torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()
    batches, indices = torch.split(pixels, batch_size), torch.split(torch.arange(IMAGES), batch_size)

    def tutorial() -> None:
        for index, image in enumerate(images):
            article_augment(image, seed=0, epoch=0, index=index)

    def ours() -> None:
        for batch, places in zip(batches, indices, strict=True):
            AUGMENT(batch, places, seed=0, epoch=0)

    tutorial()
    ours()
    turns = [(seconds(tutorial), seconds(ours)) for _ in range(repeats)]
    tutorial_rate = TUTORIAL_IMAGES / statistics.median(turn[0] for turn in turns)
    batch_rate = IMAGES / statistics.median(turn[1] for turn in turns)
    return {
        "threads": threads,
        "batch_size": batch_size,
        "tutorial_images_per_s": round(tutorial_rate),
        "batch_images_per_s": round(batch_rate),
        "ratio": round(batch_rate / tutorial_rate, 1),
    }


def main(json: bool = False, repeats: int = 15) -> None:
    """Measure and print.

    Args:
        json: print one JSON object instead of a line for each row.
        repeats: turns of each pipeline.
    """
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    threads = sorted({torch.get_num_threads(), 1}, reverse=True)
    rows = [compare(array, size, count, repeats) for count in threads for size in BATCH_SIZES]
    print(to_json({"rows": rows}) if json else "\n".join(map(str, rows)))


if __name__ == "__main__":
    page.run(main)
