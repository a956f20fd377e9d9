"""Fine-tuning's first step: a network that starts from another's weights."""

import torch

from vggnet.errors import WeightsError
from vggnet.models.table1 import resolve
from vggnet.models.vgg import VGG
from vggnet.weights.adaptation import FIRST

FIRST_FOUR = ("1_1", "2_1", "3_1", "3_2")  # convolutions of column A, which deeper networks start with


@torch.no_grad()
def transfer(given: VGG, model: VGG) -> tuple[str, ...]:
    """Copy the weights of `given` into `model`, and return the names of what keeps its own initialization.

    All convolutions (and their norms) must fit, unless `given` is column A and `model` a deeper one: it then starts
    with A's first four convolutions, as the paper's did (section 3.1). Of the head, each tensor of the same name and
    shape is copied, but the last layer only if both models name the same `classes`, and give scores or boxes alike: it
    would otherwise answer with the old ones.
    Raises: WeightsError if the networks differ in column, batch norm, width or input channels.
    """
    grows = _grows(given, model)
    for field in ("name", "width", "in_channels"):
        found, expected = getattr(given.architecture, field), getattr(model.architecture, field)
        if found != expected and not (field == "name" and grows):
            raise WeightsError(
                f"the given weights are of a network with {field} {found}, but the one to train has {field} "
                f"{expected}. Train with {field} {found}, or start without given weights."
            )
    theirs, ours = dict(given.state_dict()), model.state_dict()
    for network in (given, model):  # from the order of the given network to RGB, and on to that of the model
        if network.preprocess is not None:
            theirs[FIRST] = network.preprocess.in_rgb_order(theirs[FIRST])
    last_layer = list(ours)[-1].rpartition(".")[0]
    same_classes = given.classes is not None and given.classes == model.classes
    same_classes = same_classes and given.architecture.boxes == model.architecture.boxes
    kept = []
    for name, tensor in ours.items():
        is_last = name.startswith(f"{last_layer}.")
        is_wanted = not grows or name.startswith("head.") or name.split(".")[1].endswith(FIRST_FOUR)
        fits = name in theirs and theirs[name].shape == tensor.shape
        if fits and is_wanted and (same_classes or not is_last):
            tensor.copy_(theirs[name])
        else:
            kept.append(name)
    return tuple(kept)


def _grows(given: VGG, model: VGG) -> bool:
    """Whether this is column A and a deeper column, both with batch norm or both without."""
    shallow, deep = resolve(given.architecture.name), resolve(model.architecture.name)
    return shallow.column == "A" and deep.column in ("B", "C", "D", "E") and shallow.batch_norm == deep.batch_norm
