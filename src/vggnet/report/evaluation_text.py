"""Evaluations and predictions as text for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vggnet.report.text import table

if TYPE_CHECKING:
    from vggnet.metrics import ClassScores
    from vggnet.tasks.results import (
        DetectionResult,
        EvaluationResult,
        FoundBox,
        FoundObjects,
        LocalizationResult,
        PredictedMaps,
        PredictedMask,
        Prediction,
        SegmentationResult,
    )

MAX_CLASSES = 20  # more get no table
SURE = 0.5  # score of an object from which on it is shown


def evaluation_text(result: "EvaluationResult") -> str:
    """A table of the classes if there are few, then the result; the last line is the accuracy."""
    speed = result.images / max(result.seconds, 1e-9)
    lines = [_class_table(result), ""] if len(result.classes) <= MAX_CLASSES else []
    lines += [f"{result.images:,} images of {result.data} in {result.seconds:.1f} s ({speed:,.0f} images/s)"]
    if result.protocol != "single" or result.views > 1:
        views = f", mean softmax over {result.views} views of each image" if result.views > 1 else ""
        lines += [f"protocol {result.protocol}, scale {', '.join(map(str, result.scales))}{views}"]
    lines += [f"loss {result.loss:.4f} nats, calibration error {100 * result.calibration_error:.2f} %"]
    lines += [f"top-5 accuracy {100 * result.top5:.2f} %"] if len(result.classes) > 5 else []
    lines += [f"drawn: {file}" for file in result.files]
    return "\n".join([*lines, f"{result.split} accuracy {100 * result.top1:.2f} %"])


def localization_text(result: "LocalizationResult") -> str:
    """The result of an evaluation of boxes; the last line is the localization error with the class given."""
    lines = [f"{result.images:,} images of {result.data} in {result.seconds:.1f} s"]
    lines += [f"localization error (IoU <= 0.5) of the whole image as a box {100 * result.error_whole_image:.2f} %"]
    if result.error_constant_box is not None:
        lines += [f"localization error of the best constant box of train {100 * result.error_constant_box:.2f} %"]
    lines += [f"mean overlap (IoU) {result.mean_overlap:.3f}"]
    if result.error_top1 is not None and result.error_top5 is not None:
        errors = f"{100 * result.error_top1:.2f} %, top-5 {100 * result.error_top5:.2f} %"
        lines += [f"localization error, class predicted {errors}"]
    return "\n".join([*lines, f"{result.split} localization error, class given {100 * result.error_class_given:.2f} %"])


def segmentation_text(result: "SegmentationResult") -> str:
    """A table of the classes, then the result; the last line is the mean IoU."""
    total = sum(map(sum, result.pixels))
    rows = [
        [name, *(None if share is None else f"{100 * share:.2f} %" for share in (result.iou[name], accuracy)),
         f"{100 * sum(row) / max(total, 1):.2f} %"]
        for (name, accuracy), row in zip(result.accuracy.items(), result.pixels, strict=True)
    ]  # fmt: skip
    mirrored = ", and mirror images" if result.flip else ""
    return "\n".join(
        [
            table(["class", "IoU", "accuracy", "of the pixels"], rows),
            "",
            f"{result.images:,} images of {result.data} in {result.seconds:.1f} s, {total:,} pixels, "
            f"{result.ignored_pixels:,} ignored",
            f"whole images, scale {', '.join(map(str, result.scales))}{mirrored}",
            f"loss {result.loss:.4f} nats, mean accuracy {100 * result.mean_accuracy:.2f} %",
            f"pixel accuracy {100 * result.pixel_accuracy:.2f} %",
            *(f"drawn: {file}" for file in result.files),
            f"{result.split} mean IoU {100 * result.mean_iou:.2f} %",
        ]
    )


def detection_text(result: "DetectionResult") -> str:
    """A table of the classes, then the result; the last line is the mean average precision at IoU 0.5."""
    rows = [
        [name, *(None if share is None else f"{100 * share:.2f} %" for share in (result.ap_50[name], result.ap[name])),
         f"{count:,}"]
        for name, count in result.objects.items()
    ]  # fmt: skip
    return "\n".join(
        [
            table(["class", "AP at IoU 0.5", "AP at 0.5 to 0.95", "objects"], rows),
            "",
            f"{result.images:,} images of {result.data} in {result.seconds:.1f} s, "
            f"{sum(result.objects.values()):,} objects",
            f"mAP at IoU 0.75 {100 * result.map_75:.2f} %, recall with 100 boxes an image {100 * result.recall:.2f} %",
            f"mAP at IoU 0.5 to 0.95 {100 * result.map:.2f} %",
            *(f"drawn: {file}" for file in result.files),
            f"{result.split} mAP at IoU 0.5 {100 * result.map_50:.2f} %",
        ]
    )


def objects_text(predictions: Sequence["FoundObjects"]) -> str:
    """The name of each picture, and below it each object of a score above 0.5; for an unreadable one its error."""
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.error or prediction.name)
        for one in prediction.objects:
            if one.score >= SURE:
                left, top, right, bottom = (f"{edge:.1f}" for edge in one.box)
                what = f"{one.label}  {100 * one.score:.2f} %"
                lines.append(f"  {what}  left {left}, top {top}, right {right}, bottom {bottom}")
    return "\n".join(lines)


def masks_text(predictions: Sequence["PredictedMask"]) -> str:
    """The name of each picture, and below it the share of each class; for an unreadable one its error."""
    width = max((len(name) for prediction in predictions for name in prediction.shares), default=0)
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.error or prediction.name)
        lines += [f"  {name:<{width}}  {100 * share:6.2f} %" for name, share in prediction.shares.items()]
    return "\n".join(lines)


def maps_text(predictions: Sequence["PredictedMaps"]) -> str:
    """The name of each picture, and below it how much of it each map covers; for an unreadable one its error."""
    width = max((len(name) for prediction in predictions for name in prediction.maps), default=0)
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.error or prediction.name)
        for name, found in prediction.maps.items():
            covered = f"{100 * found.share:6.2f} % of the pixels have at least 0.5"
            lines.append(f"  {name:<{width}}  {covered}, the largest value is {found.largest:.3f}")
    return "\n".join(lines)


def predictions_text(predictions: Sequence["Prediction"]) -> str:
    """The name of each picture with a line for each class below it; for an unreadable one its error."""
    width = max((len(name) for prediction in predictions for name in prediction.classes), default=0)
    lines: list[str] = []
    for prediction in predictions:
        lines.append(prediction.error or prediction.name)
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            lines.append(f"  {name:<{width}}  {100 * probability:6.2f} %")
    return "\n".join(lines)


def boxes_text(found: Sequence["FoundBox"]) -> str:
    """The name of each picture, and below it the class, score and box; for an unreadable one its error."""
    lines: list[str] = []
    for one in found:
        lines.append(one.error or one.name)
        if one.box is not None:
            left, top, right, bottom = (f"{edge:.1f}" for edge in one.box)
            lines.append(f"  {box_caption(one)}  left {left}, top {top}, right {right}, bottom {bottom}")
    return "\n".join(lines)


def box_caption(one: "FoundBox") -> str:
    """Class and score."""
    assert one.score is not None
    return f"{one.label or 'object'}  {100 * one.score:.2f} %"


def _class_table(result: "EvaluationResult") -> str:
    rows = []
    for index, (name, scores) in enumerate(result.scores.items()):
        row = result.confusion[index]
        wrong, other = max(((count, -other) for other, count in enumerate(row) if other != index), default=(0, 0))
        mistaken = f"{result.classes[-other]} ({wrong:,})" if wrong else ""
        rows.append([name, *_cells(scores), f"{sum(row):,}", mistaken])
    for name, scores in (("macro mean", result.macro), ("weighted mean", result.weighted)):
        rows.append([name, *_cells(scores), "", ""])
    headings = ["class", "recall", "precision", "F1", "ROC AUC", "images", "most often mistaken for"]
    return table(headings, rows, left=(0, 6))


def _cells(scores: "ClassScores") -> list[str | None]:
    shares = (scores.recall, scores.precision, scores.f1)
    cells = [None if share is None else f"{100 * share:.2f} %" for share in shares]
    return [*cells, None if scores.roc_auc is None else f"{scores.roc_auc:.4f}"]
