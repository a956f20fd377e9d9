"""Images per second: `BatchAugment` against the article's torchvision pipeline, on random 32x32 images.

    python benchmarks/augment.py [--json]

Both do crop, flip, rotation and color jitter, in this one process, taking turns; the numbers are medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from vggnet.data.augmentation import BatchAugment
from vggnet.data.tutorial_augmentation import article_augment

BATCH_SIZES = (128, 512, 1024)
IMAGES = 1024  # each turn of BatchAugment goes once over these
ARTICLE_IMAGES = 256  # each turn of the article's pipeline
AUGMENT = BatchAugment(shift=4, flip="random", rotation=15, jitter=0.2, padding="zero")


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(array: np.ndarray, batch_size: int, threads: int, repeats: int) -> dict[str, float]:
    """Median images per second of both, and the ratio. array: uint8 (IMAGES, 32, 32, 3)."""
    torch.set_num_threads(threads)
    images = [Image.fromarray(pixels) for pixels in array[:ARTICLE_IMAGES]]
    batches = torch.from_numpy(array).permute(0, 3, 1, 2).contiguous().split(batch_size)
    indices = torch.arange(IMAGES).split(batch_size)

    def article() -> None:
        for index, image in enumerate(images):
            article_augment(image, seed=0, epoch=0, index=index)

    def batch() -> None:
        for pixels, places in zip(batches, indices, strict=True):
            AUGMENT(pixels, places, seed=0, epoch=0)

    article()
    batch()
    turns = [(seconds(article), seconds(batch)) for _ in range(repeats)]
    article_rate = ARTICLE_IMAGES / statistics.median(turn[0] for turn in turns)
    batch_rate = IMAGES / statistics.median(turn[1] for turn in turns)
    return {
        "threads": threads,
        "batch_size": batch_size,
        "article_images_per_s": round(article_rate),
        "batch_images_per_s": round(batch_rate),
        "ratio": round(batch_rate / article_rate, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each pipeline (default 15)")
    args = parser.parse_args()
    array = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    threads = sorted({torch.get_num_threads(), 1}, reverse=True)
    rows = [compare(array, size, count, args.repeats) for count in threads for size in BATCH_SIZES]
    if args.json:
        print(json.dumps({"torch": torch.__version__, "rows": rows}))
        return
    print(f"{'threads':>7} {'batch':>6} {'article (images/s)':>19} {'BatchAugment (images/s)':>24} {'ratio':>6}")
    for row in rows:
        count, size, article, batch, ratio = row.values()
        print(f"{count:>7} {size:>6} {article:>19,} {batch:>24,} {ratio:>6}")


if __name__ == "__main__":
    main()
