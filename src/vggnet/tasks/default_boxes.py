"""SSD's default boxes: which belong to an object, the loss, and what the outputs of a network find. By torchvision.

The outputs of a network are (n, D, K + 5), see `vggnet.models.detection_heads`; objects are those of
`vggnet.data.object_views`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from vggnet.models.detection_heads import DESIGNS

PLACES = 4  # numbers of a box, behind the scores


class Detections(NamedTuple):
    """What is found on an image, best first."""

    boxes: Tensor  # float32 (m, 4) left, top, right, bottom in pixels of what the network sees
    scores: Tensor  # float32 (m,), 0..1
    labels: Tensor  # int64 (m,), without the background: from 0


@cache
def default_boxes(head: str) -> Tensor:
    """The default boxes of a head, float32 (D, 4): left, top, right, bottom in pixels of what the network sees.

    Args:
        head: a name of `DESIGNS`.

    Example:
        >>> default_boxes("ssd300").shape
        torch.Size([8732, 4])
    """
    design = DESIGNS[head]
    images = ImageList(torch.empty(1, 3, design.size, design.size), [(design.size, design.size)])
    maps = [torch.empty(1, 1, side, side) for side in design.maps]
    boxes: Tensor = _detector(head).anchor_generator(images, maps)[0]
    return boxes


class Losses(NamedTuple):
    """Of one image, each 0-d and divided by the number of default boxes that belong to objects."""

    classes: Tensor  # cross-entropy in nats of these boxes and of the three times as many hardest others
    places: Tensor  # smooth L1 of the code of these boxes


def box_losses(outputs: Tensor, objects: Tensor, head: str) -> Losses:
    """The loss of an image: default boxes that overlap an object by half, or the most of all, are to find it.

    Args:
        outputs: (D, K + 5).
        objects: (k, 5), on the same device.
        head: a name of `DESIGNS`.

    Source:
        Liu et al. (arXiv:1512.02325), section 2.2.
    """
    detector, defaults = _detector(head), default_boxes(head).to(outputs.device)
    boxes, labels = objects[:, 1:], objects[:, 0].long() + 1
    if len(objects):
        matched = detector.proposal_matcher(box_iou(boxes, defaults))
    else:
        matched = torch.full((len(defaults),), -1, device=outputs.device)
    found = detector.compute_loss([{"boxes": boxes, "labels": labels}], _parts(outputs[None]), [defaults], [matched])
    return Losses(found["classification"], found["bbox_regression"])


def detect(outputs: Tensor, head: str) -> list[Detections]:
    """What the outputs (n, D, K + 5) find on each image: up to 200 boxes with a score of at least 0.01.

    Boxes of a class that overlap a better one of it by more than 0.45 are left out.

    Args:
        outputs: of the network.
        head: a name of `DESIGNS`.
    """
    detector, defaults = _detector(head), default_boxes(head).to(outputs.device)
    size, count = DESIGNS[head].size, len(outputs)
    found = detector.postprocess_detections(_parts(outputs.float()), [defaults] * count, [(size, size)] * count)
    return [Detections(one["boxes"], one["scores"], one["labels"] - 1) for one in found]


def to_image(boxes: Tensor, size: tuple[int, int], head: str) -> Tensor:
    """Boxes (m, 4) that a network sees, in pixels of the image that was stretched for it.

    Args:
        boxes: left, top, right, bottom.
        size: width and height of the image.
        head: a name of `DESIGNS`.
    """
    side = DESIGNS[head].size
    return boxes * boxes.new_tensor([size[0] / side, size[1] / side] * 2)


def _parts(outputs: Tensor) -> dict[str, Tensor]:
    return {"cls_logits": outputs[..., :-PLACES], "bbox_regression": outputs[..., -PLACES:]}


@cache
def _detector(head: str) -> Any:
    """Torchvision's model without a network, for what it does with outputs."""
    design = DESIGNS[head]
    ratios: Sequence[list[int]] = [list(of_map) for of_map in design.ratios]
    generator = DefaultBoxGenerator(ratios, scales=list(design.scales), steps=list(design.steps))
    return SSD(nn.Identity(), generator, (design.size, design.size), num_classes=2, head=nn.Identity())
