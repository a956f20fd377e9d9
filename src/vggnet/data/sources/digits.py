"""Handwritten digits that come with the package: a data set that needs no download.

`digits.npz` has the test images of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, UCI Machine Learning
Repository, doi:10.24432/C50P49, CC BY 4.0) as scikit-learn has them: values 0..16, uint8 (1797, 8, 8), and labels.
"""

from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.decoding import StoredImage
from vggnet.data.hashing import hash_bytes
from vggnet.data.sources.source import Source
from vggnet.data.splits import stratified_split
from vggnet.errors import DataError

DIGITS_SPLITS = ("train", "test")


def open_digits(split: str) -> Source:
    """1,797 digits of the UCI optical recognition set, divided 80/20: stratified, always the same.

    The 8 x 8 images with values 0..16 become 32 x 32 RGB by bilinear interpolation.
    Raises: DataError if `split` is neither "train" nor "test".
    """
    if split not in DIGITS_SPLITS:
        raise DataError(f"digits: no split {split!r}; expected one of {', '.join(DIGITS_SPLITS)}.")
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        digits, labels = stored["digits"], stored["labels"].astype(np.int64)
    rows = stratified_split(labels, 0.2, seed=0)[DIGITS_SPLITS.index(split)]
    gray = np.rint(digits[rows] * (255 / 16)).astype(np.uint8)
    return _Digits(split, gray, labels[rows])


class _Digits(Source):
    is_fixed = True

    def __init__(self, split: str, gray: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        super().__init__(name="digits", split=split, classes=[str(digit) for digit in range(10)], labels=labels)
        self._gray = gray  # (N, 8, 8)

    def open(self, index: int) -> StoredImage:
        small = Image.fromarray(self._gray[index])
        return StoredImage(small.resize((32, 32), Image.Resampling.BILINEAR), self.describe(index))

    def describe(self, index: int) -> str:
        return f"digits, split {self.split}, row {index}"

    @cached_property
    def image_hashes(self) -> NDArray[np.uint64]:
        return np.array([hash_bytes(digit.tobytes()) for digit in self._gray], dtype=np.uint64)

    @cached_property
    def fingerprint(self) -> str:
        return blake2b(self._gray.tobytes() + self.labels.tobytes(), digest_size=8).hexdigest()
