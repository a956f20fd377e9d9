"""How well frozen features serve other classes: pooled, of unit length, one linear classifier (appendix B)."""

import json
from collections.abc import Sequence
from dataclasses import replace
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
from tqdm import tqdm

from vggnet.data.sources.opening import open_source
from vggnet.data.sources.source import Source as Data
from vggnet.errors import ConfigError, DataError, check_at_least
from vggnet.features.extractor import DEFAULT_MODEL, POOLINGS, FeatureExtractor, normalized, unit_length
from vggnet.features.retrieval import POOLING, descriptor_layers, fingerprint, joined
from vggnet.files import replacing
from vggnet.models.vgg import VGG
from vggnet.studies.bench import cpu_environment
from vggnet.studies.rows import Row, Study, append_row, read_rows, spread
from vggnet.weights.checkpoint import open_model
from vggnet.weights.prepared import preprocess_of

COMBINE = ("average", "stack")
CLASSIFIERS = {"svm": LinearSVC(max_iter=20_000), "logistic": LogisticRegression(max_iter=20_000)}
PENALTIES = {"C": [0.1, 1, 10]}  # of which cross-validation on the chosen training images takes one
FOLDS = 5

Vectors = NDArray[np.float32]


class TransferStudy(Study):
    """The rows of the classifiers: one for each choice of options and seed."""

    def as_table(self) -> str:
        """Markdown: a line for each choice of options, with mean and standard deviation over its seeds."""
        lines = [
            "| data | weights | scales | combined by | classifier | training images a class | seeds "
            "| mean class accuracy (%) | mAP (%) |",
            "|" + "---|" * 9,
        ]
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            groups.setdefault(json.dumps(row["options"]), []).append(row)
        for rows in groups.values():
            options = rows[0]["options"]
            accuracy, precision = ([100 * row[name] for row in rows] for name in ("class_accuracy", "map"))
            lines.append(
                f"| {rows[0]['data']} | {rows[0]['weights']} | {', '.join(map(str, options['scales']))} "
                f"| {options['combine']} | {options['classifier']} | {options['per_class']} "
                f"| {', '.join(str(row['seed']) for row in rows)} | {spread(accuracy)} | {spread(precision)} |"
            )
        return "\n".join(lines)


def study_transfer(
    data: str | Path,
    *,
    weights: Path | str = DEFAULT_MODEL,
    scales: Sequence[int] = (256, 384),
    combine: str = "average",
    classifier: str = "svm",
    per_class: int = 40,
    seeds: int = 5,
    out: Path | str = "runs/transfer",
    rows: Path | str = "docs/transfer.jsonl",
    progress: bool = False,
) -> TransferStudy:
    """Train a linear classifier on frozen features for each seed, score it on test, and append a row to `rows`.

    Each whole image and its mirror image go through the network at each of `scales` (pixels, shorter side). The layers
    are those of `descriptor_layers`, pooled over space and mirror images, each of length 1. combine: "average" or
    "stack" the scales; the result has length 1. A seed chooses `per_class` training images of each class.
    classifier: "svm" (linear) or "logistic"; cross-validation on the chosen images sets the penalty.
    The features of a split at a scale lie in `out`, and are not computed again. Scores: mean accuracy of the classes,
    and the mean of their average precisions.
    Raises: ConfigError for options that cannot work; DataError if a class has too few images or test has other classes;
        ImageError for a picture that cannot be read; WeightsError.
    """
    _check(scales, combine, classifier, per_class, seeds)
    train, test = open_source(data, "train"), open_source(data, "test")
    _check_data(train, test, per_class)
    network, path = open_model(weights).network, Path(rows)
    options = {
        "network": fingerprint(network),
        "train": train.fingerprint,
        "test": test.fingerprint,
        "scales": list(scales),
        "combine": combine,
        "classifier": classifier,
        "per_class": per_class,
    }
    wanted = [seed for seed in range(seeds) if not _has(read_rows(path), options, seed)]
    try:
        found = [
            _described(network, split, scales, combine, Path(out), show=progress)
            for split in ((train, test) if wanted else ())
        ]
        for seed in wanted:
            chosen = _choose(train.labels, per_class, seed)
            row = _score(CLASSIFIERS[classifier], found[0][chosen], train.labels[chosen], found[1], test.labels)
            about = {"data": Path(train.name).name, "weights": str(weights), "seed": seed}
            append_row(path, {**about, **row, "options": options, "environment": cpu_environment()})
    except KeyboardInterrupt:
        return TransferStudy(rows=read_rows(path), finished=False)
    return TransferStudy(rows=read_rows(path), finished=True)


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


def _described(network: VGG, data: Data, scales: Sequence[int], combine: str, out: Path, *, show: bool) -> Vectors:
    """A vector of length 1 for each image, (N, D)."""
    vectors = [joined(_pooled_once(network, data, scale, out, show)) for scale in scales]
    return unit_length(np.mean(vectors, axis=0) if combine == "average" else np.concatenate(vectors, axis=1))


def _pooled_once(network: VGG, data: Data, scale: int, out: Path, show: bool) -> dict[str, Vectors]:
    """What `_pooled` gives, from the file of an earlier run if it has that."""
    path = out / f"{data.split}-{scale}.safetensors"
    job = {"network": fingerprint(network), "data": data.fingerprint, "pooling": POOLING}
    try:
        with safe_open(path, framework="np") as file:
            if file.metadata() == job:
                return {layer: file.get_tensor(layer) for layer in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError):
        pass  # none yet, or damaged
    layers = _pooled(network, data, scale, show)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(layers, temporary, metadata=job)
    return layers


@torch.no_grad()
def _pooled(network: VGG, data: Data, scale: int, show: bool) -> dict[str, Vectors]:
    """{layer: (N, C)}: the whole image at a shorter side of `scale`, averaged with its mirror image."""
    preprocess = replace(preprocess_of(network), resize=scale, crop=scale)
    extractor = FeatureExtractor(network, descriptor_layers(network)).eval()
    device = next(network.parameters()).device
    found: dict[str, list[Vectors]] = {layer: [] for layer in extractor.channels}
    bar = tqdm(range(len(data)), f"{data.split} at {scale}", unit="image", leave=False, disable=None if show else True)
    for index in bar:
        pixels = preprocess.whole(data.read(index))
        for layer, maps in extractor(normalized([pixels, pixels.flip(-1)], preprocess, device)).items():
            found[layer].append(POOLINGS[POOLING](maps).mean(0).cpu().numpy())
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
