"""VGG, the network family of Simonyan & Zisserman (arXiv:1409.1556): built, trained, tested and used.

The public names are in `__init__.pyi`. Each is imported when it is first used, so that `import vggnet` is immediate.
"""

from vggnet.lazy import attach as _attach

# The names of version 0.1 -> where they are now. They go with version 0.3.
_OLD_NAMES = {
    "build": "create_model",
    "to_dense": "models.vgg.to_dense",
    "from_dense": "models.vgg.from_dense",
    "fold_repeated_pool": "models.vgg.fold_repeated_pool",
    "test": "evaluate",
    "TestResult": "tasks.results.EvaluationResult",
    "localise": "evaluate",
    "localize": "evaluate",
    "LocalisationResult": "tasks.results.LocalizationResult",
    "LocalizationResult": "tasks.results.LocalizationResult",
    "find_boxes": "predict",
    "FoundBox": "tasks.results.FoundBox",
    "Prediction": "tasks.results.Prediction",
    "explain": "interpret.explain",
    "Explanation": "interpret.Explanation",
    "find_exciting": "interpret.find_top_activations",
    "maximise": "interpret.visualize_channels",
    "maximize": "interpret.visualize_channels",
    "layer_table": "interpret.layer_table",
    "LayerTable": "interpret.LayerTable",
    "write_report": "run_report.write_report",
    "Report": "run_report.Report",
    "LPIPS": "perceptual.LPIPS",
    "DISTS": "perceptual.DISTS",
    "ContentDistance": "perceptual.ContentDistance",
    "StyleDistance": "perceptual.StyleDistance",
    "style_transfer": "style.transfer",
    "build_index": "retrieval.build_index",
    "find_similar": "retrieval.find_similar",
    "find_duplicates": "retrieval.find_duplicates",
    "fetch": "weights.fetch",
    "convert": "weights.convert",
    "push_to_hub": "hub.push_to_hub",
    "pull_from_hub": "hub.pull_from_hub",
    "VGGError": "errors.VGGError",
    "ConfigError": "errors.ConfigError",
    "InputError": "errors.InputError",
    "DataError": "errors.DataError",
    "ImageError": "errors.ImageError",
    "WeightsError": "errors.WeightsError",
    "RunError": "errors.RunError",
    "NonFiniteError": "errors.NonFiniteError",
    "StorageError": "errors.StorageError",
}

__getattr__ = _attach(__name__, __file__, _OLD_NAMES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
