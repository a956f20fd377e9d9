"""How fast VGG's features and LPIPS are on this CPU: ours against torchvision and the package lpips."""

import copy
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers

from vggnet.accel.api import accelerate
from vggnet.accel.precision import products_in
from vggnet.benchmarking.accuracy import BFLOAT16, errors_of
from vggnet.benchmarking.timing import (
    CHANNELS_LAST,
    FEW,
    NCHW,
    OURS,
    Bench,
    has_tiles,
    in_autocast,
    infer,
    timed,
)
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError
from vggnet.features.distance import LAYERS
from vggnet.features.extractor import FeatureExtractor
from vggnet.features.lpips import HEADS_FILE, LPIPS
from vggnet.models.table1 import resolve
from vggnet.models.vgg import build
from vggnet.progress import Progress
from vggnet.weights.checkpoint import save


def bench_features(
    model: str = "vgg16",
    *,
    layer: str = "relu4_3",
    size: int = 224,
    batch: int = 16,
    rounds: int = 7,
    progress: Progress = False,
) -> Bench:
    """Time one layer's output for a batch on a CPU, against torchvision's create_feature_extractor.

    Args:
        model: a VGG that torchvision has, so neither with LRN nor with 1x1 convolutions.
        layer: by the paper's name.
        size: pixels of both sides of the images.
        batch: images at a time.
        rounds: batches that are timed for each way.
        progress: see `vggnet.progress.Progress`.
    """
    network = build(model, head="gap", num_classes=1).eval()
    images = torch.randn(batch, 3, size, size)
    last = images.contiguous(memory_format=torch.channels_last)
    ours = accelerate(FeatureExtractor(network, layer))
    stock, stock_last, exact = (_torchvision_extractor(network.features, model, layer) for _ in range(3))
    stock_last.to(memory_format=torch.channels_last)
    ways = {
        OURS: partial(infer, ours, last),
        NCHW: partial(infer, stock, images),
        CHANNELS_LAST: partial(infer, stock_last, last),
    }
    if has_tiles():
        ways[OURS + BFLOAT16] = products_in("bfloat16")(partial(infer, ours, last))
        ways[CHANNELS_LAST + BFLOAT16] = partial(infer, in_autocast(stock_last), last)
    errors = errors_of(ways, lambda: infer(exact.double(), images[:FEW].double()), progress)
    return timed(f"features, {model}, {layer}, {size}x{size}, batch {batch}", batch, ways, errors, rounds, progress)


def bench_lpips(
    *, size: int = 64, batch: int = 16, rounds: int = 7, gradient: bool = False, progress: Progress = False
) -> Bench:
    """Time LPIPS of a batch of pairs on a CPU, against the package lpips in both memory formats, on random weights.

    Args:
        size: pixels of both sides of the images.
        batch: pairs at a time.
        rounds: batches that are timed for each way.
        gradient: also compute the gradient for the first image of each pair, as for a loss.
        progress: see `vggnet.progress.Progress`.

    Raises:
        ConfigError: the package lpips is not installed.
    """
    if find_spec("lpips") is None:
        raise ConfigError("the package to compare with is not installed: pip install 'vggnet[peers]'.")
    network = build("vgg16", head="gap", num_classes=1).eval()
    images, others = (torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(2))
    with TemporaryDirectory() as folder:
        save(network, Path(folder) / "weights.safetensors", preprocess=Preprocess.imagenet())
        save_file({f"lin{i}": torch.rand(c) for i, c in enumerate(LAYERS.values())}, Path(folder) / HEADS_FILE)
        ours = LPIPS(folder)
    package = _lpips_package()
    last = copy.deepcopy(package).to(memory_format=torch.channels_last)
    pair = (images, others)
    pair_last = tuple(tensor.contiguous(memory_format=torch.channels_last) for tensor in pair)
    ways = {
        OURS: partial(_compare, ours, pair, gradient),
        NCHW: partial(_compare, package, pair, gradient),
        CHANNELS_LAST: partial(_compare, last, pair_last, gradient),
    }
    if has_tiles():
        ways[OURS + BFLOAT16] = products_in("bfloat16")(partial(_compare, ours, pair, gradient))
        ways[CHANNELS_LAST + BFLOAT16] = partial(_compare, last, pair_last, gradient, autocast=True)
    few = [tensor[:FEW].double() for tensor in pair]
    errors: dict[str, float] = {}
    for names, distance in ((OURS,), ours), ((NCHW, CHANNELS_LAST), package):  # of different random weights
        exact = partial(_compare, copy.deepcopy(distance).double(), few, gradient)
        errors |= errors_of({name: way for name, way in ways.items() if name.startswith(names)}, exact, progress)
    work = f"LPIPS{', with gradient' if gradient else ''}, {size}x{size}, batch {batch}"
    return timed(work, batch, ways, errors, rounds, progress)


def _lpips_package() -> nn.Module:
    """With random weights and without torchvision's head, whose 124 million values it would throw away."""
    import lpips

    bare = SimpleNamespace(features=make_layers(cfgs["D"]))
    with patch("torchvision.models.vgg16", lambda **_: bare):
        module: nn.Module = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return module.requires_grad_(False).eval()


def _compare(distance: nn.Module, pair: Sequence[Tensor], gradient: bool, *, autocast: bool = False) -> Tensor:
    """Distances, or the gradient of their sum for the first images."""
    with torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        leaf = pair[0].detach().requires_grad_(gradient)
        found: Tensor = distance(leaf, pair[1])
        return torch.autograd.grad(found.sum(), leaf)[0] if gradient else found


def _torchvision_extractor(features: nn.Sequential, model: str, layer: str) -> nn.Module:
    network = resolve(model)
    stock = make_layers(cfgs[network.column], network.batch_norm)
    stock.load_state_dict(dict(zip(stock.state_dict(), features.state_dict().values(), strict=True)))
    index = [name for name, _ in features.named_children()].index(layer)
    extractor: nn.Module = create_feature_extractor(stock.eval(), {str(index): layer})
    return extractor
