"""The model card of uploaded weights: data, recipe, accuracy, limits, and how to load them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vggnet.weights.checkpoint import Checkpoint

KNOWN_DATA = ("digits", "cifar10", "cifar100")  # other names may be those of private folders
RECIPE = ("preset", "epochs", "batch_size", "optimizer", "lr", "schedule", "augment", "seed")
TEST = "test.json"  # in the run folder

CARD = """---
library_name: {library}
pipeline_tag: image-classification
tags: [vgg, {library}]
---
# {repo_id}

{network} (VGG, arXiv:1409.1556) with the head `{head}`, {classes}. Preprocessing and class names are in the files.

| | |
|---|---|
| data | {data} |
| recipe | {recipe} |
| accuracy | {accuracy} |
| images | {images} |
| limits | {limits} |

## Use

With vggnet (`pip install vggnet`):

```python
import vggnet

model = vggnet.hub.pull_from_hub("{repo_id}")
print(vggnet.predict(model, "photo.jpg"))
```
"""
WITH_TIMM = """
With timm and transformers:

```python
import timm
from transformers import pipeline

model = timm.create_model("hf-hub:{repo_id}", pretrained=True)
classify = pipeline("image-classification", "{repo_id}")
```
"""


def model_card(checkpoint: Checkpoint, repo_id: str, *, is_timm: bool) -> str:
    """The text of README.md. It names no folder of the machine that trained the network.

    Args:
        checkpoint: the network, with its provenance.
        repo_id: "user/name".
        is_timm: whether timm and transformers load what is uploaded.
    """
    architecture, preprocess = checkpoint.architecture, checkpoint.preprocess
    assert preprocess is not None  # it was checked before
    values = dict(_leaves(checkpoint.provenance))
    data, classes = values.get("data"), architecture.num_classes
    recipe = [f"{key} {values[key]}" for key in RECIPE if values.get(key) is not None]
    limits = "scores every image as one of its classes" if classes else "gives no classes"
    shape = f"{preprocess.crop}x{preprocess.crop} pixels, {'RGB' if preprocess.in_channels == 3 else 'gray'}"
    text = CARD.format(
        library="timm" if is_timm else "vggnet",
        repo_id=repo_id,
        network=architecture.name,
        head=architecture.head,
        classes=f"{classes} classes" if classes else "which gives the last feature map",
        data=data if data in KNOWN_DATA else "not named",
        recipe=", ".join(recipe) or "not known",
        accuracy=_accuracy(checkpoint, values),
        images=f"{shape}, the center of an image whose shorter side is resized to {preprocess.resize}",
        limits=f"{limits}; other kinds of images than those of its training were not tested",
    )
    return text + (WITH_TIMM.format(repo_id=repo_id) if is_timm else "")


def _accuracy(checkpoint: Checkpoint, values: Mapping[str, Any]) -> str:
    """Of the test in the run folder, or of the notes in the weights."""
    test = checkpoint.path.with_name(TEST) if checkpoint.path is not None else None
    if test is not None and test.is_file():
        try:
            found = json.loads(test.read_text(encoding="utf-8"))
            return f"{100 * found['top1']:.2f} % of {found['images']:,} images, split {found['split']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "not known"
    if isinstance(values.get("top1"), float) and isinstance(values.get("test_images"), int):
        return f"{100 * values['top1']:.2f} % of {values['test_images']:,} test images"
    return "not tested"


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values at every depth; outer ones come last, and so count."""
    for value in values.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
    for key, value in values.items():
        if isinstance(value, str | int | float):
            yield key, value
