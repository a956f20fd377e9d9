"""Explanations as PNG: the picture that the model saw, and a transparent map of what counts in it."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vggnet.interpret.explanation import Explanation

# Colors of small, middle and large values, and how much of the picture they hide.
VALUES = (0.0, 0.5, 1.0)
COLORS = ((255, 220, 80), (245, 130, 32), (190, 20, 40))
OPACITY = (0, 150, 217)
BLENDED = 0.7  # of this opacity where both are one picture


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_text(image: Image.Image) -> str:
    """The same in base64."""
    return base64.b64encode(png(image)).decode()


def picture_of(explanation: Explanation) -> Image.Image:
    """The picture that the model saw, RGB."""
    return Image.fromarray(explanation.picture).convert("RGB")


def heatmap_of(explanation: Explanation) -> Image.Image:
    """What counts for the class, RGBA; its largest value is the darkest red, and 0 is transparent.

    Args:
        explanation: with one attribution, whose values are not negative.
    """
    (attribution,) = explanation.attributions.values()
    return Image.fromarray(colored(attribution.values), "RGBA")


def colored(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values (H, W), not negative -> RGBA (H, W, 4).

    Example:
        >>> colored(np.array([[0.0, 2.0]], np.float32)).tolist()
        [[[255, 220, 80, 0], [190, 20, 40, 217]]]
    """
    share = values / max(float(values.max()), 1e-12)
    channels = [*zip(*COLORS, strict=True), OPACITY]
    return np.stack([np.interp(share, VALUES, channel).round().astype(np.uint8) for channel in channels], axis=-1)


def blended(explanation: Explanation) -> Image.Image:
    """Both as one picture, RGB."""
    heatmap = heatmap_of(explanation)
    mask = heatmap.getchannel("A").point(lambda value: round(value * BLENDED))
    picture = picture_of(explanation)
    picture.paste(heatmap.convert("RGB"), mask=mask)
    return picture
