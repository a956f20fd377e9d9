"""VGG, the network family of Simonyan & Zisserman (arXiv:1409.1556): built, trained, tested and used.

Names are imported when they are first used, so `import vggnet` is immediate and has no side effects.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vggnet.accel.api import accelerate, restore
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
    from vggnet.evaluation.box_prediction import FoundBox, find_boxes
    from vggnet.evaluation.evaluate import evaluate
    from vggnet.evaluation.localization import LocalizationResult, localize
    from vggnet.evaluation.predict import Prediction, predict
    from vggnet.evaluation.results import EvaluationResult
    from vggnet.features.dists import DISTS
    from vggnet.features.duplicates import find_duplicates
    from vggnet.features.extractor import FeatureExtractor, extract_features
    from vggnet.features.gatys import ContentDistance, StyleDistance
    from vggnet.features.lpips import LPIPS
    from vggnet.features.retrieval import build_index, find_similar
    from vggnet.features.style_transfer import style_transfer
    from vggnet.interpret.explain import Explanation, explain
    from vggnet.interpret.feature_visualization import maximize
    from vggnet.interpret.summary import LayerTable, layer_table
    from vggnet.interpret.top_activations import find_exciting
    from vggnet.models.vgg import VGG, Architecture, build, fold_repeated_pool, from_dense, to_dense
    from vggnet.training.run import Run
    from vggnet.training.run_report import Report, write_report
    from vggnet.training.train import resume, train
    from vggnet.weights.checkpoint import load, save
    from vggnet.weights.conversion import convert
    from vggnet.weights.fetching import fetch
    from vggnet.weights.hub import pull_from_hub, push_to_hub

_MODULES = {
    "vggnet.accel.api": ("accelerate", "restore"),
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
    "vggnet.evaluation.box_prediction": ("FoundBox", "find_boxes"),
    "vggnet.evaluation.localization": ("LocalizationResult", "localize"),
    "vggnet.evaluation.predict": ("Prediction", "predict"),
    "vggnet.evaluation.evaluate": ("evaluate",),
    "vggnet.evaluation.results": ("EvaluationResult",),
    "vggnet.interpret.top_activations": ("find_exciting",),
    "vggnet.interpret.explain": ("Explanation", "explain"),
    "vggnet.interpret.summary": ("LayerTable", "layer_table"),
    "vggnet.interpret.feature_visualization": ("maximize",),
    "vggnet.features.dists": ("DISTS",),
    "vggnet.features.duplicates": ("find_duplicates",),
    "vggnet.features.gatys": ("ContentDistance", "StyleDistance"),
    "vggnet.features.lpips": ("LPIPS",),
    "vggnet.features.retrieval": ("build_index", "find_similar"),
    "vggnet.features.style_transfer": ("style_transfer",),
    "vggnet.features.extractor": ("FeatureExtractor", "extract_features"),
    "vggnet.training.run_report": ("Report", "write_report"),
    "vggnet.training.run": ("Run",),
    "vggnet.training.train": ("resume", "train"),
    "vggnet.models.vgg": ("VGG", "Architecture", "build", "fold_repeated_pool", "from_dense", "to_dense"),
    "vggnet.weights.conversion": ("convert",),
    "vggnet.weights.fetching": ("fetch",),
    "vggnet.weights.checkpoint": ("load", "save"),
    "vggnet.weights.hub": ("pull_from_hub", "push_to_hub"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022 (by topic)
    "build", "VGG", "Architecture", "to_dense", "from_dense", "fold_repeated_pool",
    "train", "resume", "Run",
    "evaluate", "EvaluationResult", "localize", "LocalizationResult", "find_boxes", "FoundBox", "predict", "Prediction",
    "explain", "Explanation", "find_exciting", "maximize",
    "write_report", "Report",
    "extract_features", "FeatureExtractor", "LPIPS", "DISTS", "ContentDistance", "StyleDistance",
    "style_transfer", "build_index", "find_similar", "find_duplicates",
    "load", "save", "Preprocess",
    "layer_table", "LayerTable",
    "fetch", "convert", "push_to_hub", "pull_from_hub",
    "accelerate", "restore",
    "VGGError", "ConfigError", "InputError", "DataError", "ImageError", "WeightsError", "RunError", "NonFiniteError",
    "StorageError",
]  # fmt: skip


_DEPRECATED = {"test": "evaluate", "TestResult": "EvaluationResult"}  # names of version 0.1 -> today's


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        from warnings import warn

        warn(f"vggnet.{name} is now vggnet.{_DEPRECATED[name]}.", DeprecationWarning, stacklevel=2)
        name = _DEPRECATED[name]
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
