"""VGG, the network family of Simonyan & Zisserman (arXiv:1409.1556): built, trained, tested and used.

Names are imported when they are first used, so `import vggnet` is immediate and has no side effects.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggnet.conv3x3.accelerate import accelerate, restore
    from vggnet.data.preprocess import Preprocess
    from vggnet.errors import (
        ConfigError,
        DataError,
        ImageError,
        InputError,
        NonFiniteError,
        RunError,
        StorageError,
        VGGError,
        WeightsError,
    )
    from vggnet.evaluation.finding import FoundBox, find_boxes
    from vggnet.evaluation.localising import LocalisationResult, localise
    from vggnet.evaluation.predicting import Prediction, predict
    from vggnet.evaluation.testing import TestResult, test
    from vggnet.explanation.exciting import find_exciting
    from vggnet.explanation.explaining import Explanation, explain
    from vggnet.explanation.layer_table import LayerTable, layer_table
    from vggnet.explanation.maximising import maximise
    from vggnet.reuse.dists import DISTS
    from vggnet.reuse.duplicates import find_duplicates
    from vggnet.reuse.gatys import ContentDistance, StyleDistance
    from vggnet.reuse.lpips import LPIPS
    from vggnet.reuse.similar import build_index, find_similar
    from vggnet.reuse.style import style_transfer
    from vggnet.reuse.taps import FeatureExtractor, features
    from vggnet.training.reporting import Report, write_report
    from vggnet.training.run import Run
    from vggnet.training.train import resume, train
    from vggnet.vgg import VGG, Architecture, build, fold_repeated_pool, from_dense, to_dense
    from vggnet.weights.converting import convert
    from vggnet.weights.fetching import fetch
    from vggnet.weights.files import load, save
    from vggnet.weights.hub import pull_from_hub, push_to_hub

_MODULES = {
    "vggnet.conv3x3.accelerate": ("accelerate", "restore"),
    "vggnet.data.preprocess": ("Preprocess",),
    "vggnet.errors": (
        "ConfigError",
        "DataError",
        "ImageError",
        "InputError",
        "NonFiniteError",
        "RunError",
        "StorageError",
        "VGGError",
        "WeightsError",
    ),
    "vggnet.evaluation.finding": ("FoundBox", "find_boxes"),
    "vggnet.evaluation.localising": ("LocalisationResult", "localise"),
    "vggnet.evaluation.predicting": ("Prediction", "predict"),
    "vggnet.evaluation.testing": ("TestResult", "test"),
    "vggnet.explanation.exciting": ("find_exciting",),
    "vggnet.explanation.explaining": ("Explanation", "explain"),
    "vggnet.explanation.layer_table": ("LayerTable", "layer_table"),
    "vggnet.explanation.maximising": ("maximise",),
    "vggnet.reuse.dists": ("DISTS",),
    "vggnet.reuse.duplicates": ("find_duplicates",),
    "vggnet.reuse.gatys": ("ContentDistance", "StyleDistance"),
    "vggnet.reuse.lpips": ("LPIPS",),
    "vggnet.reuse.similar": ("build_index", "find_similar"),
    "vggnet.reuse.style": ("style_transfer",),
    "vggnet.reuse.taps": ("FeatureExtractor", "features"),
    "vggnet.training.reporting": ("Report", "write_report"),
    "vggnet.training.run": ("Run",),
    "vggnet.training.train": ("resume", "train"),
    "vggnet.vgg": ("VGG", "Architecture", "build", "fold_repeated_pool", "from_dense", "to_dense"),
    "vggnet.weights.converting": ("convert",),
    "vggnet.weights.fetching": ("fetch",),
    "vggnet.weights.files": ("load", "save"),
    "vggnet.weights.hub": ("pull_from_hub", "push_to_hub"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 (by topic)
    "build", "VGG", "Architecture", "to_dense", "from_dense", "fold_repeated_pool",
    "train", "resume", "Run",
    "test", "TestResult", "localise", "LocalisationResult", "find_boxes", "FoundBox", "predict", "Prediction",
    "explain", "Explanation", "find_exciting", "maximise",
    "write_report", "Report",
    "features", "FeatureExtractor", "LPIPS", "DISTS", "ContentDistance", "StyleDistance",
    "style_transfer", "build_index", "find_similar", "find_duplicates",
    "load", "save", "Preprocess",
    "layer_table", "LayerTable",
    "fetch", "convert", "push_to_hub", "pull_from_hub",
    "accelerate", "restore",
    "VGGError", "ConfigError", "InputError", "DataError", "ImageError", "WeightsError", "RunError", "NonFiniteError",
    "StorageError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
