"""How well do frozen features of ImageNet serve other classes? Pooled, normalized, one linear classifier (appendix B).

python -m experiments.transfer.run --data flowers17
"""

from collections.abc import Sequence
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, recall_score
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from experiments import page
from experiments.rows import Row, append_row, percents, read_rows, spread
from vggnet.benchmarking.timing import cpu_environment
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source as Data
from vggnet.errors import ConfigError, DataError, check_at_least
from vggnet.features.extractor import DEFAULT_MODEL, POOLINGS, FeatureExtractor, normalized, unit_length
from vggnet.features.similarity_index import POOLING, descriptor_layers, fingerprint, joined
from vggnet.files import replacing
from vggnet.models.vgg import VGG
from vggnet.progress import report_progress
from vggnet.weights.checkpoint import open_model

ROWS = Path(__file__).with_name("rows.jsonl")
COMBINE = ("average", "stack")
CLASSIFIERS = {"svm": LinearSVC(max_iter=20_000), "logistic": LogisticRegression(max_iter=20_000)}
PENALTIES = {"C": [0.1, 1, 10]}  # of which cross-validation on the chosen training images takes one
FOLDS = 5

Vectors = NDArray[np.float32]


def main(
    data: str | None = None,
    weights: str = DEFAULT_MODEL,
    scales: tuple[int, ...] = (256, 384),
    combine: str = "average",
    classifier: str = "svm",
    per_class: int = 40,
    seeds: int = 5,
    out: Path = Path("runs/transfer"),
    rows: Path = ROWS,
) -> None:
    """Train and test the classifiers that have no row yet, then write the table.

    Args:
        data: photos of other classes, as `vgg train --data` takes them; without it the page is written from the rows.
        weights: a name of `vgg weights list`, a run folder or a .safetensors file.
        scales: shorter sides, in pixels, at which the whole image is seen.
        combine: "average" or "stack" the scales.
        classifier: "svm" (linear) or "logistic".
        per_class: training images of each class, which the seed chooses.
        seeds: classifiers, each trained on its own choice of images.
        out: the features, which are not computed again.
        rows: a row for each classifier; the page is written beside it.
    """
    if data is not None:
        measure(
            data,
            weights=weights,
            scales=scales,
            combine=combine,
            classifier=classifier,
            per_class=per_class,
            seeds=seeds,
            out=out,
            rows=rows,
        )
    write_page(rows)


def measure(
    data: str | Path,
    *,
    weights: Path | str = DEFAULT_MODEL,
    scales: Sequence[int] = (256, 384),
    combine: str = "average",
    classifier: str = "svm",
    per_class: int = 40,
    seeds: int = 5,
    out: Path,
    rows: Path,
) -> list[Row]:
    """Train a linear classifier on frozen features for each seed, score it on test, and append a row for each.

    Each whole image and its mirror image go through the network at each scale. The layers are those of
    `descriptor_layers`, pooled over space and mirror images, each of length 1. The combination of the scales has length
    1. Cross-validation on the chosen images sets the penalty. Scores are the mean accuracy of the classes, and the
    mean of their average precisions.

    Returns:
        All rows.

    Raises:
        ConfigError: an option cannot work.
        DataError: a class has too few images, or test has other classes.
        ImageError: an image cannot be read.
        WeightsError.
    """
    _check(scales, combine, classifier, per_class, seeds)
    train, test = open_source(data, "train"), open_source(data, "test")
    _check_data(train, test, per_class)
    network = open_model(weights).network
    options = {
        "network": fingerprint(network),
        "train": train.fingerprint,
        "test": test.fingerprint,
        "scales": list(scales),
        "combine": combine,
        "classifier": classifier,
        "per_class": per_class,
    }
    wanted = [seed for seed in range(seeds) if not _has(read_rows(rows), options, seed)]
    found = [_vectors(network, split, scales, combine, out) for split in ((train, test) if wanted else ())]
    for seed in wanted:
        chosen = _choose(train.labels, per_class, seed)
        row = _score(CLASSIFIERS[classifier], found[0][chosen], train.labels[chosen], found[1], test.labels)
        about = {"data": Path(train.name).name, "weights": str(weights), "seed": seed}
        append_row(rows, {**about, **row, "options": options, "environment": cpu_environment()})
    return read_rows(rows)


def write_page(path: Path) -> None:
    """Write the table into the README.md beside the rows."""
    rows = read_rows(path)
    facts = {
        "command": "`python -m experiments.transfer.run --data DATA`, with the scales and the choices of the table",
        "penalty": "by five-fold cross-validation on the chosen training images; test images are scored once a seed",
    }
    section = f"{page.facts(facts, rows[-1]['environment'])}\n\n{table(rows)}"
    page.insert(path.with_name("README.md"), "transfer", section)


def table(rows: Sequence[Row]) -> str:
    """A line for each choice of options, with mean and standard deviation over its seeds."""
    headings = [
        "data", "weights", "scales", "combined by", "classifier", "training images a class", "seeds",
        "mean class accuracy (%)", "mAP (%)",
    ]  # fmt: skip
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(dumps(row["options"]), []).append(row)
    lines = []
    for runs in groups.values():
        options = runs[0]["options"]
        about = [runs[0]["data"], runs[0]["weights"], ", ".join(map(str, options["scales"]))]
        chosen = [options["combine"], options["classifier"], options["per_class"]]
        scores = [spread(percents(runs, name)) for name in ("class_accuracy", "map")]
        lines.append([*about, *chosen, ", ".join(str(row["seed"]) for row in runs), *scores])
    return page.markdown(headings, lines, left=5)


def _check(scales: Sequence[int], combine: str, classifier: str, per_class: int, seeds: int) -> None:
    if not scales or min(scales) < 32:
        raise ConfigError(f"scales is {tuple(scales)}; expected one shorter side or more, each of at least 32 pixels.")
    for name, value, known in (("combine", combine, COMBINE), ("classifier", classifier, CLASSIFIERS)):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}; expected one of {', '.join(known)}.")
    if per_class < FOLDS:
        raise ConfigError(f"per_class is {per_class}; {FOLDS}-fold cross-validation takes at least {FOLDS} images.")
    check_at_least(1, seeds=seeds)


def _check_data(train: Data, test: Data, per_class: int) -> None:
    if train.classes != test.classes:
        raise DataError(f"{train.name}: train and test have other classes: {train.classes} and {test.classes}.")
    counts = np.bincount(train.labels, minlength=len(train.classes))
    if counts.min() < per_class:
        name, least = train.classes[int(counts.argmin())], int(counts.min())
        raise DataError(f"{train.name}: class {name} has {least} training images; {per_class} of each were asked for.")


def _has(rows: Sequence[Row], options: dict[str, Any], seed: int) -> bool:
    return any(row["options"] == options and row["seed"] == seed for row in rows)


def _vectors(network: VGG, data: Data, scales: Sequence[int], combine: str, out: Path) -> Vectors:
    """A vector of length 1 for each image, (N, D)."""
    vectors = [joined(_pooled_once(network, data, scale, out)) for scale in scales]
    return unit_length(np.mean(vectors, axis=0) if combine == "average" else np.concatenate(vectors, axis=1))


def _pooled_once(network: VGG, data: Data, scale: int, out: Path) -> dict[str, Vectors]:
    """The result of `_pooled`, from the file of an earlier run if there is one."""
    path = out / f"{data.split}-{scale}.safetensors"
    job = {"network": fingerprint(network), "data": data.fingerprint, "pooling": POOLING}
    try:
        with safe_open(path, framework="np") as file:
            if file.metadata() == job:
                return {layer: file.get_tensor(layer) for layer in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError):
        pass  # none yet, or damaged
    layers = _pooled(network, data, scale)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(layers, temporary, metadata=job)
    return layers


@torch.no_grad()
def _pooled(network: VGG, data: Data, scale: int) -> dict[str, Vectors]:
    """{layer: (N, C)}: the whole image at a shorter side of `scale`, averaged with its mirror image."""
    preprocess = replace(Preprocess.of(network), resize=scale, crop=scale)
    extractor = FeatureExtractor(network, descriptor_layers(network)).eval()
    device = next(network.parameters()).device
    found: dict[str, list[Vectors]] = {layer: [] for layer in extractor.channels}
    with report_progress(True, f"{data.split} at {scale}") as report:
        for index in range(len(data)):
            pixels = preprocess.whole(data.read(index))
            for layer, maps in extractor(normalized([pixels, pixels.flip(-1)], preprocess, device)).items():
                found[layer].append(POOLINGS[POOLING](maps).mean(0).cpu().numpy())
            report(index + 1, len(data))
    return {layer: np.stack(values) for layer, values in found.items()}


def _choose(labels: NDArray[np.int64], per_class: int, seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)]
    )


def _score(
    classifier: LinearSVC | LogisticRegression,
    vectors: Vectors,
    labels: NDArray[np.int64],
    test_vectors: Vectors,
    test_labels: NDArray[np.int64],
) -> dict[str, float]:
    search = GridSearchCV(classifier, PENALTIES, cv=FOLDS).fit(vectors, labels)
    scores = search.decision_function(test_vectors)
    if scores.ndim == 1:  # two classes: positive for the second
        scores = np.stack([-scores, scores], axis=1)
    is_class = test_labels[:, None] == search.classes_
    return {
        "class_accuracy": float(recall_score(test_labels, search.predict(test_vectors), average="macro")),
        "map": float(average_precision_score(is_class, scores, average="macro")),
        "penalty": float(search.best_params_["C"]),
        "validation_accuracy": float(search.best_score_),
        "test_images": len(test_labels),
    }


if __name__ == "__main__":
    page.run(main)
