"""How fast VGG's features and LPIPS are on this CPU: ours against torchvision and the package lpips."""

from collections.abc import Callable
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
from vggnet.benchmarking.timing import CHANNELS_LAST, NCHW, OURS, Bench, cpu_environment, in_turns
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
    ways = {OURS: _infer(accelerate(FeatureExtractor(network, layer)), last)}
    for way, laid_out, memory_format in (
        (NCHW, images, torch.contiguous_format),
        (CHANNELS_LAST, last, torch.channels_last),
    ):
        stock = _torchvision_extractor(network.features, model, layer).to(memory_format=memory_format)
        ways[way] = _infer(stock, laid_out)
    work = f"features, {model}, {layer}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=in_turns(ways, rounds, progress), environment=cpu_environment())


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
        ways = {OURS: _compare(LPIPS(folder), images, others, gradient)}
    for way, memory_format in ((NCHW, torch.contiguous_format), (CHANNELS_LAST, torch.channels_last)):
        package = _lpips_package().to(memory_format=memory_format)
        first, second = (tensor.contiguous(memory_format=memory_format) for tensor in (images, others))
        ways[way] = _compare(package, first, second, gradient)
    work = f"LPIPS{', with gradient' if gradient else ''}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=in_turns(ways, rounds, progress), environment=cpu_environment())


def _lpips_package() -> nn.Module:
    """With random weights and without torchvision's head, whose 124 million values it would throw away."""
    import lpips

    bare = SimpleNamespace(features=make_layers(cfgs["D"]))
    with patch("torchvision.models.vgg16", lambda **_: bare):
        module: nn.Module = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    return module.requires_grad_(False).eval()


def _compare(distance: nn.Module, images: Tensor, others: Tensor, gradient: bool) -> Callable[[], object]:
    def compare() -> object:
        if not gradient:
            with torch.no_grad():
                return distance(images, others)
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(distance(leaf, others).sum(), leaf)

    return compare


def _torchvision_extractor(features: nn.Sequential, model: str, layer: str) -> nn.Module:
    network = resolve(model)
    stock = make_layers(cfgs[network.column], network.batch_norm)
    stock.load_state_dict(dict(zip(stock.state_dict(), features.state_dict().values(), strict=True)))
    index = [name for name, _ in features.named_children()].index(layer)
    extractor: nn.Module = create_feature_extractor(stock.eval(), {str(index): layer})
    return extractor


def _infer(network: nn.Module, images: Tensor) -> Callable[[], object]:
    def infer() -> object:
        with torch.inference_mode():
            return network(images)

    return infer
