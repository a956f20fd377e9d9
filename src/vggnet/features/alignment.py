"""Whether two pictures agree in detail, which near-duplicates do and pictures that look alike when small do not."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels to which both are reduced, at most half of the smaller side
LEAST_SIDE = 8
CROPS = (0.0, 0.03, 0.06, 0.09)  # of each side, that one of the two may lack
SHIFT = 2  # pixels
FLAT = 1.0  # deviation of gray values, of 255, below which nothing can be compared

Gray = NDArray[np.float32]


def agreement(first: Image.Image, second: Image.Image) -> float:
    """The correlation of the gray values of two pictures, where they fit best.

    Rows and columns have their means subtracted: lines of text, or a horizon, agree in these without being the same.
    One of the pictures may be cropped a little on all sides, and shifted by a few pixels. On pages of different text
    the correlation is at most 0.3; on copies at least 0.9 (JPEG quality 40, brightness, contrast, text on it, 3 %
    cropped) or 0.8 (noise made smaller).

    Args:
        first: a picture of any size and mode.
        second: another one.

    Returns:
        At most 1, and 1 if neither has details.

    Example:
        >>> noise = Image.effect_noise((64, 64), 50)
        >>> round(agreement(noise, noise.point(lambda value: value // 2)), 2), agreement(noise, noise.rotate(90)) < 0.5
        (1.0, True)
    """
    side = max(LEAST_SIDE, min(SIDE, *(length // 2 for length in (*first.size, *second.size))))
    (whole, *parts), (other, *others) = ([_details(image, crop, side) for crop in CROPS] for image in (first, second))
    if max(whole.std(), other.std()) < FLAT:
        return 1.0
    pairs = [(whole, other), *((whole, part) for part in others), *((part, other) for part in parts)]
    return max(_best_correlation(a, b) for a, b in pairs)


def _details(image: Image.Image, crop: float, side: int) -> Gray:
    """(side, side): gray values without a part on each side, less the means of their row and of their column."""
    width, height = image.size
    box = (crop * width, crop * height, (1 - crop) * width, (1 - crop) * height)
    gray = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX, box=box), dtype=np.float32)
    details: Gray = gray - gray.mean(0, keepdims=True) - gray.mean(1, keepdims=True) + gray.mean()
    return details


def _best_correlation(first: Gray, second: Gray) -> float:
    """Over all shifts of up to SHIFT pixels, around the edges."""
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    if lengths == 0:
        return 0.0
    products = np.fft.irfft2(np.fft.rfft2(first) * np.conj(np.fft.rfft2(second)), s=first.shape)
    shifts = np.arange(-SHIFT, SHIFT + 1)
    return float(products[np.ix_(shifts, shifts)].max()) / lengths
