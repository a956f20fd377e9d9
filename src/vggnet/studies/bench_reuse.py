"""How fast VGG's features and distances are here: ours against what torchvision and the lpips package do."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.vgg import cfgs, make_layers

from vggnet.conv3x3.accelerate import accelerate
from vggnet.reuse.taps import FeatureExtractor
from vggnet.studies.bench import CHANNELS_LAST, NCHW, OURS, Bench, cpu_environment, in_turns
from vggnet.table1 import resolve
from vggnet.vgg import build


def bench_features(
    model: str = "vgg16",
    *,
    layer: str = "relu4_3",
    size: int = 224,
    batch: int = 16,
    rounds: int = 7,
    progress: bool = False,
) -> Bench:
    """Time one layer's output for a batch on a CPU, against torchvision's create_feature_extractor.

    model: of torchvision, so neither with LRN nor with 1x1 convolutions.
    """
    network = build(model, head="gap", num_classes=1).eval()
    images = torch.randn(batch, 3, size, size)
    last = images.contiguous(memory_format=torch.channels_last)
    ways = {OURS: _answer(accelerate(FeatureExtractor(network, layer)), last)}
    for way, laid_out, memory_format in (
        (NCHW, images, torch.contiguous_format),
        (CHANNELS_LAST, last, torch.channels_last),
    ):
        stock = _torchvision_extractor(network.features, model, layer).to(memory_format=memory_format)
        ways[way] = _answer(stock, laid_out)
    work = f"features, {model}, {layer}, {size}x{size}, batch {batch}"
    return Bench(work=work, batch=batch, seconds=in_turns(ways, rounds, progress), environment=cpu_environment())


def _torchvision_extractor(features: nn.Sequential, model: str, layer: str) -> nn.Module:
    network = resolve(model)
    stock = make_layers(cfgs[network.column], network.batch_norm)
    stock.load_state_dict(dict(zip(stock.state_dict(), features.state_dict().values(), strict=True)))
    index = [name for name, _ in features.named_children()].index(layer)
    extractor: nn.Module = create_feature_extractor(stock.eval(), {str(index): layer})
    return extractor


def _answer(network: nn.Module, images: Tensor) -> Callable[[], object]:
    def answer() -> object:
        with torch.inference_mode():
            return network(images)

    return answer
