"""What a network for objects sees of an image, and where the objects then are.

The objects of a view are rows of a float32 tensor (n, 5): class, left, top, right and bottom in pixels of the view.
"""

from functools import cache

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from vggnet.data.counter_random import Domain, image_seed
from vggnet.data.decoding import StoredImage
from vggnet.data.objects import Objects
from vggnet.data.preprocess import Preprocess

Result = tuple[Tensor, Tensor]  # pixels and objects


def stretched(image: StoredImage, objects: Objects, epoch: int, index: int, *, preprocess: Preprocess) -> Result:
    """The whole image, stretched: uint8 (C, crop, crop), and its objects.

    Args:
        image: not decoded yet.
        objects: on it; those that stand for many are left out.
        epoch: does not matter.
        index: does not matter.
        preprocess: which stretches.
    """
    return _seen(pil_to_tensor(image.decode()), *_single(objects), preprocess)


def ssd_augmented(
    image: StoredImage, objects: Objects, epoch: int, index: int, *, preprocess: Preprocess, seed: int
) -> Result:
    """A part of the image, or the image on a larger canvas, stretched, with other colors: SSD's augmentation.

    The image is put on a canvas of the mean color of up to four times its sides, with probability 1/2; then a part is
    cut out that overlaps an object by at least a drawn share, and has a ratio of sides in [1/2, 2]; then it is mirrored
    with probability 1/2. Objects whose center is cut off are left out. Colors are distorted last, when there are fewest
    pixels. The result depends on the image, its objects and (seed, epoch, index) alone; the global random state is left
    as it was.

    Args:
        image: not decoded yet.
        objects: on it; those that stand for many are left out.
        epoch: of the training.
        index: of the image in its source.
        preprocess: which stretches.
        seed: of the training.

    Source:
        Liu et al. (arXiv:1512.02325), sections 2.2 and 3.6, by the transforms of torchvision.
    """
    pixels, (boxes, labels) = pil_to_tensor(image.decode()), _single(objects)
    own = image_seed(Domain.OBJECT_CROP, seed=seed, epoch=epoch, index=index)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(own)  # torch.manual_seed would reseed GPUs too
        canvas = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=pixels.shape[1:])
        fill = tuple(round(255 * value) for value in preprocess.fill)
        moved, found = _moves(fill, has_objects=len(boxes) > 0)(
            tv_tensors.Image(pixels), {"boxes": canvas, "labels": labels}
        )
        seen, objects_seen = _seen(moved, found["boxes"].as_subclass(Tensor), found["labels"], preprocess)
        return _COLORS(seen), objects_seen


_COLORS = v2.RandomPhotometricDistort()


@cache
def _moves(fill: tuple[int, ...], *, has_objects: bool) -> v2.Compose:
    """The transforms that move pixels; without objects there is none to overlap."""
    parts = [v2.RandomZoomOut(fill=fill), v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()] if has_objects else []
    return v2.Compose([*parts, v2.RandomHorizontalFlip()])


def _single(objects: Objects) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) and classes (n,) of the objects that stand for themselves."""
    kept = ~objects.crowd
    return torch.from_numpy(objects.boxes[kept]), torch.from_numpy(objects.labels[kept])


def _seen(pixels: Tensor, boxes: Tensor, labels: Tensor, preprocess: Preprocess) -> Result:
    height, width = pixels.shape[1:]
    side = preprocess.crop
    scale = torch.tensor([side / width, side / height] * 2)
    rows = torch.cat([labels[:, None].float(), boxes.float() * scale], 1)
    return preprocess.pixels(to_pil_image(pixels)), rows
