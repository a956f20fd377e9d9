"""From a photo's file to what the network sees, on one core: ours against torchvision's reference training pipeline.

    python benchmarks/decoding.py FOLDER [--photos 256] [--rounds 5] [--json]

All decode, take a random resized crop of 224 pixels, mirror, and normalise into float32; ours does the last two on
whole batches, in channels-last memory. torchvision's is that of its references/classification, with either backend.
Images a second of one core's processor time, medians of rounds in turns.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from vggnet.data.cropping import random_resized_crop
from vggnet.data.decode import decode_image, image_files
from vggnet.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vggnet.training.config import PHOTOS
from vggnet.training.inputs import make_prepare

BATCH, SIZE, OURS = 32, 224, "vggnet"
RECIPE = replace(PHOTOS, jitter=0.0)


def theirs(backend: str) -> Callable[[list[Path]], torch.Tensor]:
    """torchvision's reference: each image by itself, then the batch."""
    to_tensor = [v2.PILToTensor()]
    change = [v2.RandomResizedCrop(SIZE, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)]
    change += [v2.RandomHorizontalFlip(0.5)]
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), v2.ToPureTensor()]
    pipeline = v2.Compose([*to_tensor, *change, *scale] if backend == "tensor" else [*change, *to_tensor, *scale])

    def load(files: list[Path]) -> torch.Tensor:
        return torch.stack([pipeline(Image.open(file).convert("RGB")) for file in files])

    return load


def ours(files: list[Path]) -> torch.Tensor:
    """As `vggnet.training` does it."""
    crop = partial(random_resized_crop, size=SIZE, min_area=RECIPE.min_area, seed=0, epoch=0)
    pixels = torch.stack([crop(decode_image(file), index=index) for index, file in enumerate(files)])
    return make_prepare(RECIPE, Preprocess())(pixels, torch.arange(len(files)), 0)


def measure(folder: Path, photos: int, rounds: int) -> dict[str, Any]:
    """Images per second of each way, and how many times as fast ours is as the faster other."""
    torch.set_num_threads(1)
    files = image_files([folder])
    files = files[:: max(1, len(files) // photos)][:photos]
    ways = {OURS: ours, "torchvision, tensors": theirs("tensor"), "torchvision, Pillow": theirs("pil")}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, load in ways.items():
            start = time.process_time()
            for first in range(0, len(files), BATCH):
                load(files[first : first + BATCH])
            seconds[way].append(time.process_time() - start)
    rates = {way: round(len(files) / median(taken[1:]), 1) for way, taken in seconds.items()}  # the first warms up
    ratio = rates[OURS] / max(rate for way, rate in rates.items() if way != OURS)
    return {"photos": len(files), "rates": rates, "ratio": round(ratio, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photos, in folders or not")
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.folder, arguments.photos, arguments.rounds)
    print(json.dumps(found) if arguments.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
