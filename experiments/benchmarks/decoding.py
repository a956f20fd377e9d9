"""From photos' files to what the network sees, on one core: ours against torchvision's reference training pipeline.

python -m experiments.benchmarks.decoding FOLDER

All take random crops of 8 to 100 percent of a photo's area at 224 pixels, mirror half of them, and normalize batches of
32 into float32: ours as `vgg train` does it, theirs as in its references/classification, with either backend; both by a
data loader in one process. Images a second of one core's processor time, medians of rounds in turns. The ratio is to
the faster of the others, the median of the rounds' ratios.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tyro.conf import Positional

from experiments import page
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.image_folder import open_folder
from vggnet.report.text import to_json
from vggnet.training.inputs import make_prepare, make_preprocess, make_train_batches
from vggnet.training.presets import preset

OURS = "vggnet"
RECIPE = preset("photos").override(jitter=0.0, min_area=0.08, workers=0)  # does what the reference does
Pass = Callable[[int], None]  # over all photos, in an epoch


def theirs(folder: Path, indices: list[int], backend: str) -> Pass:
    """torchvision's reference with one of its backends."""
    to_tensor = [v2.PILToTensor()]
    change = [v2.RandomResizedCrop(RECIPE.data.crop, interpolation=v2.InterpolationMode.BILINEAR, antialias=True)]
    change += [v2.RandomHorizontalFlip(0.5)]
    scale = [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(**Preprocess.imagenet().statistics()),
        v2.ToPureTensor(),
    ]
    pipeline = v2.Compose([*to_tensor, *change, *scale] if backend == "tensors" else [*change, *to_tensor, *scale])
    loader = DataLoader(Subset(ImageFolder(str(folder), pipeline), indices), RECIPE.optimizer.batch_size, shuffle=True)

    def load(epoch: int) -> None:
        for _images, _labels in loader:
            pass

    return load


def ours(folder: Path, indices: list[int]) -> Pass:
    """What `vgg train` does before the network."""
    source = open_folder(folder, "all")
    preprocess = make_preprocess(RECIPE, source)
    batches = make_train_batches(RECIPE, source, preprocess, np.array(indices))
    prepare = make_prepare(RECIPE, preprocess)

    def load(epoch: int) -> None:
        for batch in batches.epoch(epoch):
            prepare(batch.images, batch.indices, epoch)

    return load


def measure(folder: Path, photos: int, rounds: int) -> dict[str, Any]:
    """Images per second of each way, and how many times as fast ours is as the faster other."""
    torch.set_num_threads(1)
    count = len(open_folder(folder, "all"))
    indices = list(range(0, count, max(1, count // photos)))[:photos]
    others = {f"torchvision, {backend}": theirs(folder, indices, backend) for backend in ("tensors", "Pillow")}
    seconds: dict[str, list[float]] = {way: [] for way in (OURS, *others)}
    ways = {OURS: ours(folder, indices), **others}
    for epoch in range(rounds + 1):
        for way, load in ways.items():
            start = time.process_time()
            load(epoch)
            if epoch:  # the first warms up
                seconds[way].append(time.process_time() - start)
    fastest = min(others, key=lambda way: median(seconds[way]))
    ratios = [other / own for other, own in zip(seconds[fastest], seconds[OURS], strict=True)]
    rates = {way: round(len(indices) / median(taken), 1) for way, taken in seconds.items()}
    return {"photos": len(indices), "rates": rates, "ratio": round(median(ratios), 2)}


def main(folder: Positional[Path], photos: int = 256, rounds: int = 7, json: bool = False) -> None:
    """Measure and print.

    Args:
        folder: photos in a folder for each class.
        photos: how many to take.
        rounds: passes of each way over the photos.
        json: print one JSON object instead of a line for each number.
    """
    found = measure(folder, photos, rounds)
    print(to_json(found) if json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    page.run(main)
