"""Images of three colors, and a network that tells them apart; NumPy gives the same probabilities."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from vggnet.data.decoding import StoredImage
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ImageError

COLORS = ("red", "green", "blue")


class Colors(Source):
    """Images of one color and noise, labeled by the strongest channel; every fifth label is wrong."""

    def __init__(self, images, classes=COLORS, mistaken=5):
        random = np.random.default_rng(0)
        true = random.integers(0, 3, images)
        self.pixels = random.integers(0, 120, (images, 8, 8, 3), dtype=np.uint8)
        self.pixels[np.arange(images), :, :, true] += 120
        labels = np.where(np.arange(images) % mistaken == mistaken - 1, (true + 1) % 3, true)
        super().__init__(name="colors", split="test", classes=classes, labels=labels.astype(np.int64))

    def open(self, index):
        return StoredImage(Image.fromarray(self.pixels[index]), f"color {index}")

    def describe(self, index):
        return f"color {index}"

    @property
    def fingerprint(self):
        return "0123456789abcdef"


class Spoiled(Colors):
    """Every seventh image cannot be read."""

    def open(self, index):
        if index % 7 == 3:
            raise ImageError("is spoiled.")
        return super().open(index)


class Brightest(nn.Module):
    """The mean of each channel is the logit of its color; in training a layer of dropout spoils them."""

    def __init__(self, classes=COLORS):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.weight = nn.Parameter(3 * torch.eye(3))
        self.classes, self.num_classes = classes, 3
        self.preprocess = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.3, 0.2, 0.1))

    def forward(self, images):
        return self.dropout(images.mean((2, 3)) @ self.weight)


def one_by_one(source, model):
    """Softmax (N, 3) in float64 NumPy, an image at a time."""
    mean, std = np.array(model.preprocess.mean), np.array(model.preprocess.std)
    rows = []
    for index in range(len(source)):
        normal = (np.asarray(source.read(index), dtype=np.float64) / 255 - mean) / std
        exponentials = np.exp(3 * normal.mean((0, 1)))
        rows.append(exponentials / exponentials.sum())
    return np.array(rows)
