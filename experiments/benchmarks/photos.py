"""relu4_3 of VGG-16, with its ImageNet weights, for a thousand real photos: ours against torchvision's extractor.

python -m experiments.benchmarks.photos FOLDER

224 pixels, in batches of 16, which every way answers in turns; decoding is not counted. Also the largest difference of
any value from stock PyTorch's, relative to the largest value of the batch.
"""

import time
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers
from tyro.conf import Positional

import vggnet
from experiments import page
from vggnet.accel.autotuning import autotuner
from vggnet.data.images import named_pictures
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ImageError
from vggnet.features.extractor import normalized, read_batches
from vggnet.report.text import to_json

LAYER, PLACE, BATCH = "relu4_3", "22", 16
STOCK, LAST = "PyTorch, NCHW", "PyTorch, channels-last"


def measure(folder: Path, photos: int) -> dict[str, object]:
    """Images per second of each way, how many times as fast ours is as the best other, and the difference."""
    network = vggnet.load("vgg16:features")
    stock = make_layers(cfgs["D"])
    stock.load_state_dict(dict(zip(stock.state_dict(), network.features.state_dict().values(), strict=True)))
    stock = create_feature_extractor(stock.eval(), {PLACE: LAYER})
    ways = {
        "vggnet": (vggnet.accelerate(vggnet.FeatureExtractor(network, LAYER)).eval(), torch.channels_last),
        LAST: (stock, torch.channels_last),
        STOCK: (stock, torch.contiguous_format),
    }
    preprocess = Preprocess.of(network)
    pictures = list(named_pictures(folder))[:photos]
    seconds, difference, sizes = dict.fromkeys(ways, 0.0), 0.0, set()
    for pixels in read_batches(pictures, preprocess, BATCH):
        batch, outputs = normalized([_readable(image) for image in pixels], preprocess, torch.device("cpu")), {}
        for way, (extractor, memory_format) in ways.items():
            images = batch.contiguous(memory_format=memory_format)
            extractor.to(memory_format=memory_format)
            for _ in range(2 if len(pixels) not in sizes else 1):  # the first of a size chooses algorithms
                start = time.perf_counter()
                with torch.inference_mode(), autotuner().fixed({}):
                    outputs[way] = extractor(images)[LAYER]
                taken = time.perf_counter() - start
            seconds[way] += taken
        sizes.add(len(pixels))
        largest = (outputs["vggnet"] - outputs[STOCK]).abs().max() / outputs[STOCK].abs().max()
        difference = max(difference, largest.item())
    rates = {way: round(len(pictures) / total, 2) for way, total in seconds.items()}
    ratio = rates["vggnet"] / max(rates[LAST], rates[STOCK])
    return {"photos": len(pictures), "rates": rates, "ratio": round(ratio, 2), "difference": difference}


def _readable(image: Tensor | ImageError) -> Tensor:
    if isinstance(image, ImageError):
        raise image
    return image


def main(folder: Positional[Path], photos: int = 1000, json: bool = False) -> None:
    """Measure and print.

    Args:
        folder: photos, in folders or not.
        photos: how many to take.
        json: print one JSON object instead of a line for each number.
    """
    found = measure(folder, photos)
    print(to_json(found) if json else "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    page.run(main)
