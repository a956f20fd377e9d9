"""Real handwritten digits that come with scikit-learn: a data set that needs no download."""

from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from vggnet.data.decoding import StoredImage
from vggnet.data.sources.source import Source
from vggnet.errors import DataError

DIGITS_SPLITS = ("train", "test")


def open_digits(split: str) -> Source:
    """1,797 digits of the UCI optical recognition set (scikit-learn's load_digits), split 80/20, stratified, fixed.

    The 8 x 8 images with values 0..16 become 32 x 32 RGB by bilinear interpolation.
    Raises: DataError if `split` is neither "train" nor "test".
    """
    if split not in DIGITS_SPLITS:
        raise DataError(f"digits: no split {split!r}; expected one of {', '.join(DIGITS_SPLITS)}.")
    digits, labels = load_digits(return_X_y=True)  # (1797, 64), (1797,)
    parts = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    rows = np.sort(parts[DIGITS_SPLITS.index(split)])
    gray = np.rint(digits[rows].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _Digits(split, gray, labels[rows].astype(np.int64))


class _Digits(Source):
    def __init__(self, split: str, gray: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        super().__init__(name="digits", split=split, classes=[str(digit) for digit in range(10)], labels=labels)
        self._gray = gray  # (N, 8, 8)

    def open(self, index: int) -> StoredImage:
        small = Image.fromarray(self._gray[index])
        return StoredImage(small.resize((32, 32), Image.Resampling.BILINEAR), self.describe(index))

    def describe(self, index: int) -> str:
        return f"digits, split {self.split}, row {index}"

    @cached_property
    def fingerprint(self) -> str:
        return blake2b(self._gray.tobytes() + self.labels.tobytes(), digest_size=8).hexdigest()
