"""What a step of the preset `fast` costs beside the network: order and loading, augmentation, and evaluation.

python -m experiments.benchmarks.overhead DATA

Medians over the steps; the evaluation after an epoch is shared out among the epoch's steps.
"""

import time
from statistics import median

import torch
from tyro.conf import Positional

from experiments import page
from vggnet.data.sources.opening import open_source
from vggnet.data.splits import carve
from vggnet.report.text import to_json
from vggnet.tasks.class_evaluation import score_batches
from vggnet.training.inputs import make_prepare, make_preprocess, make_train_batches, make_val_batches
from vggnet.training.learner import build_model, make_learner
from vggnet.training.presets import preset

FAST = preset("fast")


def measure(data: str, steps: int) -> dict[str, float]:
    """Milliseconds a step of each part, and the share of all but the network."""
    source = open_source(data, "train")
    preprocess = make_preprocess(FAST, source)
    train_indices, val_indices = carve(source.labels, FAST.data.val_fraction, FAST.run.seed)
    batches = make_train_batches(FAST, source, preprocess, train_indices)
    learner = make_learner(FAST, build_model(FAST, len(source.classes)))
    prepare = make_prepare(FAST, preprocess)
    learner.model.train()
    times = []
    start = time.perf_counter()
    for batch in batches.epoch(0):
        loaded = time.perf_counter()
        images = prepare(batch.images, batch.indices, 0)
        prepared = time.perf_counter()
        learner.train_step(images, batch.labels)
        end = time.perf_counter()
        times.append((loaded - start, prepared - loaded, end - prepared))
        if len(times) == steps:
            break
        start = time.perf_counter()
    order, augmentation, network = (1e3 * median(column) for column in zip(*times, strict=True))
    val_batches = make_val_batches(FAST, source, preprocess, val_indices)
    for _ in range(2):  # the first chooses algorithms, once on a machine
        start = time.perf_counter()
        score_batches(learner.model, val_batches, preprocess=preprocess, device=torch.device("cpu"))
    evaluation = 1e3 * (time.perf_counter() - start) / len(batches)
    rest = order + augmentation + evaluation
    parts = {"order_ms": order, "augmentation_ms": augmentation, "evaluation_ms": evaluation, "network_ms": network}
    return {**{name: round(ms, 2) for name, ms in parts.items()}, "share": round(rest / (rest + network), 4)}


def main(data: Positional[str], steps: int = 30, json: bool = False) -> None:
    """Measure and print.

    Args:
        data: CIFAR-10, as `vgg train --data` takes it.
        steps: to measure.
        json: print one JSON object instead of a line for each part.
    """
    parts = measure(data, steps)
    print(to_json(parts) if json else "\n".join(f"{name}: {value}" for name, value in parts.items()))


if __name__ == "__main__":
    page.run(main)
