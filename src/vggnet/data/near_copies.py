"""Near-copies: pictures that were saved again, in another size, format or quality, found by sketches of 16 x 16 values.

Sketches see no crops, turned or mirrored pictures; `vggnet.features.duplicates` compares by a network.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.sources.source import Source
from vggnet.devices import usable_cores
from vggnet.errors import ImageError
from vggnet.progress import Progress, report_progress

SIDE = 16
ALIKE = 0.995  # correlation of two sketches from which pictures are near-copies
CLOSE = 12  # levels of 255 by which their means may differ
FLAT = 2.0  # levels, the deviation below which a sketch shows nothing to compare
CHUNK = 1024  # sketches compared at once

Sketches = NDArray[np.float32]  # (N, 256), gray values 0..255


NOTHING = np.zeros(SIDE * SIDE, np.float32)  # the sketch of what cannot be read


def sketch(image: Image.Image) -> Sketches:
    """The sketch of a picture, float32 (256,): means of gray values.

    Args:
        image: a picture in mode RGB.

    Example:
        >>> sketch(Image.new("RGB", (20, 30), "white"))[:3].tolist()
        [255.0, 255.0, 255.0]
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32).reshape(-1)


def sketch_source(source: Source, indices: Sequence[int], *, progress: Progress = False) -> Sketches:
    """The sketches of images, (n, 256). One that cannot be read has a flat one, which is like no other.

    Args:
        source: the images.
        indices: of those to sketch.
        progress: as for `vggnet.train`.
    """

    def one(index: int) -> Sketches:
        try:
            stored = source.open(index)
            shrink = max(times for times in (1, 2, 4, 8) if times == 1 or min(stored.size) >= 4 * SIDE * times)
            return sketch(stored.decode(shrink))
        except ImageError:
            return NOTHING

    sketches = np.zeros((len(indices), SIDE * SIDE), np.float32)
    with ThreadPoolExecutor(usable_cores()) as pool, report_progress(progress, "looking for near-copies") as report:
        for place, found in enumerate(pool.map(one, indices)):
            sketches[place] = found
            report(place + 1, len(indices))
    return sketches


def count_near_copies(sketches: Sketches, others: Sketches) -> int:
    """How many of some images have a near-copy among others.

    Args:
        sketches: of the images, (N, 256).
        others: sketches of the other images, (M, 256).

    Example:
        >>> picture, other = np.eye(16, dtype=np.float32).reshape(1, -1) * 255, np.arange(256, dtype=np.float32)[None]
        >>> count_near_copies(np.concatenate([picture, other]), picture + 1)
        1
    """
    (units, means), (other_units, other_means) = _normalized(sketches), _normalized(others)
    count = 0
    for start in range(0, len(units), CHUNK):
        part = slice(start, start + CHUNK)
        close = abs(means[part, None] - other_means) <= CLOSE
        count += int(((units[part] @ other_units.T >= ALIKE) & close).any(1).sum())
    return count


def _normalized(sketches: Sketches) -> tuple[Sketches, NDArray[np.float32]]:
    """Sketches of mean 0 and length 1, those that are flat of length 0; and their means."""
    means = sketches.mean(1, keepdims=True)
    centered = sketches - means
    lengths = np.linalg.norm(centered, axis=1, keepdims=True)
    units = np.divide(centered, lengths, out=np.zeros_like(centered), where=lengths > FLAT * SIDE)
    return units, means[:, 0]
