"""Example explanations for a report: why a network gave some of its answers, wrong and right."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vggnet.data.sources.source import Source
from vggnet.interpret.explanation import explain
from vggnet.metrics import PerImage
from vggnet.models.vgg import VGG
from vggnet.report.explanation_figures import Panel, overlaid
from vggnet.report.page import Explanation
from vggnet.weights.checkpoint import load

NUM_WRONG = NUM_RIGHT = 4


def explain_examples(weights: Path, answers: PerImage, source: Source, classes: Sequence[str]) -> list[Explanation]:
    """Grad-CAM of the mistakes of the highest loss, for both of their classes, and of the surest right answers.

    classes: in the order of the network.
    Raises: WeightsError; ConfigError for a network that cannot be explained; ImageError.
    """
    network = load(weights)
    wrong = answers.predicted != answers.labels
    worst = answers.losses.masked_fill(~wrong, -1).argsort(descending=True)[: min(NUM_WRONG, int(wrong.sum()))]
    surest = answers.confidence.masked_fill(wrong, -1).argsort(descending=True)[: min(NUM_RIGHT, int((~wrong).sum()))]
    return [
        _explain_one(network, source.read(index), int(answers.labels[index]), int(answers.predicted[index]), classes)
        for index in (*worst.tolist(), *surest.tolist())
    ]


def _explain_one(network: VGG, image: Image.Image, true: int, predicted: int, classes: Sequence[str]) -> Explanation:
    overlays = []
    for target in dict.fromkeys((predicted, true)):
        found = explain(network, image, target=target, methods=("gradcam",))
        cam = Panel("Grad-CAM", found.attributions["gradcam"].values, "", signed=False)
        overlays.append((overlaid(found.picture, cam), f"for {classes[target]}, {100 * found.probability:.1f} %"))
    verdict = "predicted rightly" if true == predicted else f"predicted {classes[predicted]}"
    return Explanation(Image.fromarray(found.picture), overlays, f"True {classes[true]}, {verdict}")
