"""Evaluate models of any task on a labeled split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from vggnet.data.sources.source import Columns
from vggnet.errors import ConfigError, MissingDependencyError, OnError, StorageError, check_at_least
from vggnet.evaluation.overlap import open_test
from vggnet.evaluation.predict import Model, describe_model, open_with_head
from vggnet.files import make_folder, write_text
from vggnet.progress import Progress
from vggnet.report.text import to_json
from vggnet.tasks import get_task
from vggnet.tasks.protocols import Name
from vggnet.tasks.results import (
    RESULT,
    DetectionResult,
    EvaluationResult,
    LocalizationResult,
    SegmentationResult,
    check_table,
    write_table,
)
from vggnet.tasks.task import Evaluated, EvaluationJob

Result = EvaluationResult | LocalizationResult | SegmentationResult | DetectionResult


def evaluate(
    model: Model | Sequence[Model],
    data: str | Path,
    *,
    split: str = "test",
    protocol: Name = "single",
    scales: Sequence[int] = (),
    flip: bool = False,
    views: Literal[1, 6] = 1,
    classifier: Model | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_error: OnError = "raise",
    label_column: str | None = None,
    image_column: str | None = None,
    ignore_index: int | None = None,
    out: Path | str | None = None,
    table: Path | str | None = None,
    progress: Progress = False,
) -> Result:
    """Evaluate a model, or several of one task together, on one split of a data set.

    Each image counts once. The prediction of several classifiers is the mean of their softmax outputs (paper, section
    4.4); the boxes of several models that predict boxes are merged (appendix A).

    Args:
        model: a network, a run folder, a `.safetensors` file, a name of `vgg weights list`, or a file of `vgg export`;
            or several of them.
        data: "digits", "cifar10", "cifar100", a folder of parquet files or of class folders, or a Hugging Face id. Its
            classes must be among the model's; they are matched by name, and `notes` says what is missing.
        split: "train", "val" or "test", or as the data set calls it.
        protocol: how each image is seen: "single" (the center crop), "multiscale", "dense", "multicrop" or
            "dense+multicrop"; see `vggnet.tasks.protocols.Protocol`.
        scales: pixels, to which the shorter side of the image is resized; by default as in training, for "multiscale"
            also 32 less and 32 more.
        flip: whether the mirror image of each view counts as well; with "multicrop" it always does.
        classifier: for models that predict boxes, which are evaluated on whole images: a model for the class, whose
            softmax scores the boxes. Models that give masks see whole images, too.
        views: 6 for test-time augmentation by six views (`SixViews`), for classes that a mirror image does not change.
        batch_size: crops for each forward pass, at least 1; by default 500 for images up to 64 pixels, else 32. Whole
            images have as many pixels.
        workers: processes that load images, 0 for none; by default 0 for small images, else one for each core.
        device: "cpu", "cuda", ...; by default a network stays where it is, and a file goes to the GPU if there is one.
        on_error: "raise" raises the error of an image that cannot be read; "return" leaves such images out, and
            `unreadable` of the result names them.
        label_column: of a table, the column of labels; by default the one called label.
        image_column: of a table, the column of images; by default the only one of bytes.
        ignore_index: of masks, the class index of pixels that do not count, besides 255.
        out: a folder, made if missing, for `test.json` and figures. Of a classifier these are `confusion.png` and
            `predictions.png`, with eight images spread evenly over the split, four correct and four wrong if there are,
            and there is `predictions.parquet`; of a model that gives masks or finds objects `examples.png`, the best
            and worst images.
        table: a .csv or .parquet file for one row an image: where it lies, what is true and what was predicted.
        progress: True for a bar or lines on stderr, or a function of (images done, images to do), which counts an image
            once for each network, scale and kind of view.

    Returns:
        The result. Its `trained_on` counts images that the network was trained on, as run folders keep them, and its
        `notes` warn of them. If the disk is full when it is to be written, its `error` says so. Without the extra
        `report`, no figure is drawn, and its `notes` say so.

    Raises:
        ConfigError: an option cannot work, alone or with the others.
        DataError: the data cannot be read, has other classes than the model, or was all trained on, unless the split is
            train.
        WeightsError: the file is damaged, or the model has no preprocessing.
        NonFiniteError: an output of the model is NaN or infinite.
        StorageError: `out` cannot be made, or `table` not be written.

    Source:
        arXiv:1409.1556, sections 3.2, 4.2, 4.3 and 4.4, for the protocols.

    Example:
        >>> import vggnet
        >>> model = vggnet.create_model("vgg11_bn", num_classes=10, head="gap", width=0.05)
        >>> model.preprocess = vggnet.Preprocess(resize=32, crop=32)
        >>> result = vggnet.evaluate(model, "digits")
        >>> result.images, result.classes[:3], len(result.confusion)
        (360, ('0', '1', '2'), 10)
    """
    check_at_least(1, batch_size=1 if batch_size is None else batch_size)
    check_at_least(0, workers=0 if workers is None else workers)
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error is {on_error!r}; it must be raise or return.")
    if views not in (1, 6):
        raise ConfigError(f"views is {views}; it must be 1 or 6.")
    models = [model] if isinstance(model, nn.Module | Path | str) else list(model)
    if not models:
        raise ConfigError("no model was given; give one, or several to average their predictions.")
    table = None if table is None else Path(table).expanduser()
    if table is not None:
        check_table(table)
    folder = None if out is None else make_folder(Path(out).expanduser())  # before the work, not after it
    networks = [open_with_head(one, device) for one in models]
    names = {network.task for network in networks}
    if len(names) > 1:
        raise ConfigError(f"the models have different tasks: {', '.join(sorted(names))}. Evaluate those of one task.")
    task = get_task(names.pop())
    tested = open_test(models, data, split, Columns(image_column, label_column, ignore_index))
    task.check_source(tested.source)
    job = EvaluationJob(
        networks=networks,
        model=" + ".join(map(describe_model, models)),
        source=tested.source,
        data=data,
        split=split,
        protocol=protocol,
        scales=tuple(scales),
        flip=flip,
        six_views=views == 6,
        classifier=None if classifier is None else open_with_head(classifier, device),
        classifier_name=None if classifier is None else describe_model(classifier),
        batch_size=batch_size,
        workers=workers,
        progress=progress,
        on_error=on_error,
    )
    evaluated = task.evaluate(job)
    noted = replace(evaluated.result, trained_on=tested.trained_on, notes=(*tested.notes, *evaluated.result.notes))
    evaluated = evaluated._replace(result=noted)
    result: Result = evaluated.result if folder is None else _written(evaluated, folder)
    if table is not None:
        write_table(table, evaluated.columns())
    return result


def _written(evaluated: Evaluated, folder: Path) -> Result:
    """The result with its figures, once its files are written; if the disk refuses, it says so."""
    result: Result = evaluated.result
    drawn = replace(result, files=tuple(folder / name for name in evaluated.figures))
    try:
        write_text(folder / RESULT, to_json(drawn) + "\n")
        evaluated.write(folder)
    except MissingDependencyError as error:
        return replace(result, notes=(*result.notes, f"no figures: {error}"))
    except StorageError as error:
        return replace(result, error=str(error))
    return drawn
