"""How long the first photos take, when no shape is known and no kernel compiled: ours against PyTorch's convolutions.

python -m experiments.benchmarks.first_contact FOLDER

Every measurement is a process of its own with empty caches, as after an installation, and the two ways take turns:
photos of as many sizes, whole and one after the other, through VGG-16's features with its ImageNet weights (decoding
and loading are not counted); and `vgg predict` for one photo, from start to end.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from tyro.conf import Positional

import vggnet
from experiments import page
from vggnet.benchmarking.timing import cpu_environment
from vggnet.data.preprocess import Preprocess
from vggnet.report.text import to_json
from vggnet.weights.registry import locate

OURS, STOCK = "vggnet", "PyTorch, channels-last"
SMALLEST = 200  # pixels of the shorter side of the first photo; every other one is a few pixels larger


def main(
    folder: Positional[Path],
    photos: int = 60,
    rounds: int = 3,
    weights: str = "vgg16:features",
    way: str | None = None,
    json: bool = False,
) -> None:
    """Measure and print.

    Args:
        folder: photos, in folders or not.
        photos: how many to take.
        rounds: measurements of each way.
        weights: a name of `vgg weights list`, or a file.
        way: print the seconds of this way in this process alone.
        json: print one JSON object instead of a line for each number.
    """
    files = sorted(folder.expanduser().rglob("*.jpg"))[:photos]
    if way is not None:
        print(features_seconds(files, weights, accelerated=way == OURS))
        return
    file = str(locate(weights))  # before the caches are empty
    folder_seconds: dict[str, list[float]] = {OURS: [], STOCK: []}
    predict_seconds: dict[str, list[float]] = {OURS: [], STOCK: []}
    for _ in range(rounds):
        for name in (OURS, STOCK):
            options = [str(folder), "--photos", str(photos), "--weights", file, "--way", name]
            printed, _ = fresh([sys.executable, "-m", "experiments.benchmarks.first_contact", *options], {})
            folder_seconds[name].append(float(printed))
            variables = {} if name == OURS else {"VGGNET_CONV": "direct"}
            command = [sys.executable, "-m", "vggnet", "predict", "vgg8_bn-cifar10-fast", str(files[0])]
            predict_seconds[name].append(fresh(command, variables)[1])
    found = {
        "photos": len(files),
        "folder_seconds": folder_seconds,
        "folder_ratio": median(folder_seconds[STOCK]) / median(folder_seconds[OURS]),
        "predict_seconds": predict_seconds,
        "predict_ratio": median(predict_seconds[OURS]) / median(predict_seconds[STOCK]),
        "environment": cpu_environment(),
    }
    print(to_json(found) if json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def fresh(command: list[str], variables: dict[str, str]) -> tuple[str, float]:
    """What a process with empty caches prints, and its seconds."""
    with TemporaryDirectory() as cache:
        caches = {"VGGNET_CACHE": f"{cache}/vggnet", "NUMBA_CACHE_DIR": f"{cache}/numba"}
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=page.ROOT,
            env={**os.environ, **caches, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, time.perf_counter() - start


def features_seconds(files: list[Path], weights: str, *, accelerated: bool) -> float:
    """Seconds for all photos, each of another size."""
    network = vggnet.load(weights).eval().to(memory_format=torch.channels_last)
    preprocess, pictures = Preprocess.of(network), []
    for number, file in enumerate(files):
        size = (SMALLEST + 5 * number, SMALLEST + 3 * number)
        pixels = np.asarray(Image.open(file).convert("RGB").resize(size))
        image = preprocess.normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
        pictures.append(image.contiguous(memory_format=torch.channels_last))
    start = time.perf_counter()
    if accelerated:
        vggnet.accelerate(network)
    with torch.inference_mode():
        for picture in pictures:
            network.features(picture)
    return time.perf_counter() - start


if __name__ == "__main__":
    page.run(main)
