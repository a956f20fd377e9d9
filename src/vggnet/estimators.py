"""scikit-learn estimators: features of a VGG as a transformer, and a classifier of images that may fine-tune it."""

import copy
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.images import Picture
from vggnet.data.sources.pictures import Pictures
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, InputError, require
from vggnet.evaluation.predict import predict
from vggnet.features.extractor import FeatureExtractor, Pooling, features_of_pictures
from vggnet.models.vgg import VGG
from vggnet.training.config import TrainConfig
from vggnet.training.train import train_with
from vggnet.weights.checkpoint import open_model, save
from vggnet.weights.registry import DEFAULT_WEIGHTS

require("sklearn", "sklearn")
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

LAYER = "pool5"  # the last one of the convolutions
Method = TypeVar("Method")


class _OfImages(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator whose samples are images, not rows of numbers."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True  # paths
        return tags


class VGGFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _OfImages):  # type: ignore[misc]
    """scikit-learn transformer: images -> the outputs of one layer of a VGG. Needs the extra `sklearn`.

    `fit` opens the network and learns nothing from the images. The fitted transformer holds its own copy of the layers
    that it needs: later changes of the file, or of the network that was given, do not change it.

    Samples are a sequence, or a column of a table, of paths and PIL images, or a uint8 array (N, H, W, 3). The
    network's own preprocessing prepares them, so they may have any size.

    Args:
        model: a VGG, a run folder, a `.safetensors` file or a name of `vgg weights list`; by default the network
            that ships with the package, trained on CIFAR-10.
        layer: by the paper's name, such as "relu4_3" or "fc7".
        pooling: "mean", "max" or "gem" (cubic root of the mean of cubes) leaves one number for each channel; None keeps
            the map, flattened.
        batch_size: images at a time through the network.
        device: "cpu", "cuda", ...; by default a GPU if there is one.

    Attributes:
        extractor_: the layers of the network, on the CPU.
        preprocess_: how images become inputs.

    Example:
        >>> photos = np.zeros((2, 40, 48, 3), np.uint8)
        >>> VGGFeatures(layer="relu1_1").fit_transform(photos).shape
        (2, 48)
    """

    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_WEIGHTS,
        *,
        layer: str = LAYER,
        pooling: Pooling | None = "mean",
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # float32 in any case
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the network.

        Args:
            X: images; only their form is checked.
            y: not used.

        Raises:
            ConfigError: a layer or an option is unknown or impossible.
            InputError: `X` are no images.
            WeightsError: there is no such model, or it has no preprocessing.
        """
        _pictures(X)
        if not isinstance(self.layer, str):
            raise ConfigError(f"layer is {self.layer!r}; expected one name. A FeatureUnion joins several transformers.")
        opened = open_model(self.model, device="cpu")
        self.preprocess_ = opened.preprocess
        self.extractor_ = copy.deepcopy(FeatureExtractor(opened.network, self.layer)).eval().requires_grad_(False)
        blank = Image.new("RGB", (self.preprocess_.crop, self.preprocess_.crop))
        self._n_features_out = self._features([blank]).shape[1]
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Compute the features.

        Args:
            X: N images.

        Returns:
            float32 (N, D), one row for each image.

        Raises:
            NotFittedError: of scikit-learn, before `fit`.
            InputError: `X` are no images.
            ImageError: an image cannot be read.
        """
        check_is_fitted(self)
        return self._features(_pictures(X))

    def _features(self, pictures: list[Picture]) -> NDArray[np.float32]:
        device = choose_device(self.device)
        extractor = self.extractor_ if device.type == "cpu" else copy.deepcopy(self.extractor_).to(device)
        found = features_of_pictures(
            extractor, pictures, self.preprocess_, device, pooling=self.pooling, batch_size=self.batch_size
        )
        rows: NDArray[np.float32] = next(iter(found.values())).flatten(1).to("cpu", torch.float32).numpy()
        return rows


def _if_on_top(name: str) -> Callable[[Method], Method]:
    """Decorator of a method that exists if the classifier on top has one of this name."""
    decorator: Callable[[Method], Method] = available_if(lambda self: hasattr(self._top(), name))
    return decorator


class VGGClassifier(ClassifierMixin, _OfImages):  # type: ignore[misc]
    """scikit-learn classifier of images by a VGG. Needs the extra `sklearn`.

    By default the network is frozen, and a classifier is trained on its features. With `fine_tune` the network itself
    is trained from its weights, as `vggnet.train` does it: with the same preprocessing, augmentation and options.

    Args:
        model: as for `VGGFeatures`, as are `layer`, `pooling`, `batch_size` and `device`.
        layer: by the paper's name; not used with `fine_tune`.
        pooling: of the layer's map; not used with `fine_tune`.
        classifier: any classifier of scikit-learn, which is cloned; by default each feature is standardized and a
            `LogisticRegression` follows. Not used with `fine_tune`.
        fine_tune: False trains a classifier on frozen features. True trains the network, by a preset that fits the
            images; the name of a preset, or a `TrainConfig` with the network and the preprocessing of the weights
            (see `vggnet.preset`), says how.
        random_state: seed of a fine-tuning: an int for the same result each time, a `RandomState`, or None.
        batch_size: images at a time through the network, when it is not trained.
        device: "cpu", "cuda", ...

    Attributes:
        features_: the fitted `VGGFeatures`; not with `fine_tune`.
        classifier_: the fitted classifier on top; with `fine_tune` one that asks the network.
        network_: with `fine_tune` the trained network with its classes and its preprocessing, for `vggnet.save`.
        classes_: the labels, in the order of the columns of `predict_proba`.

    Example:
        >>> photos = np.zeros((4, 32, 32, 3), np.uint8)
        >>> photos[2:] = 255
        >>> classifier = VGGClassifier(layer="relu1_1").fit(photos, ["night", "night", "day", "day"])
        >>> classifier.predict(photos[[0, 3]]).tolist(), classifier.predict_proba(photos).shape
        (['night', 'day'], (4, 2))
    """

    def __init__(
        self,
        model: VGG | Path | str = DEFAULT_WEIGHTS,
        *,
        layer: str = LAYER,
        pooling: Pooling | None = "mean",
        classifier: Any = None,
        fine_tune: bool | str | TrainConfig = False,
        random_state: Any = None,
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.classifier = classifier
        self.fine_tune = fine_tune
        self.random_state = random_state
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Train the classifier on the features of the images, or the network on the images.

        Args:
            X: N images, as for `VGGFeatures`.
            y: their N labels, numbers or strings.

        Raises:
            ConfigError: an option is unknown, impossible, or not used with `fine_tune`.
            DataError: too few images to validate on, which `val_fraction` 0 in `fine_tune` spares.
            InputError: `X` are no images.
            ImageError: an image cannot be read.
            WeightsError: there is no such model, or it has no preprocessing.
            ValueError: `y` are not N labels of two or more classes.
        """
        pictures = _pictures(X)
        check_consistent_length(pictures, y)
        for name in {"features_", "network_"} & vars(self).keys():  # of an earlier fit
            delattr(self, name)
        if self.fine_tune is not False:
            return self._fit_network(pictures, y)
        of_features = VGGFeatures().get_params(deep=False)
        self.features_ = VGGFeatures(**{name: getattr(self, name) for name in of_features}).fit(pictures)
        self.classifier_ = self._new_top().fit(self.features_.transform(pictures), y)
        self.classes_ = self.classifier_.classes_
        return self

    def _fit_network(self, pictures: list[Picture], y: Any) -> Self:
        """Train in a temporary run folder."""
        for name, unused in (("layer", LAYER), ("pooling", "mean"), ("classifier", None)):
            if getattr(self, name) != unused:
                raise ConfigError(f"{name} is not used with fine_tune, which trains the whole network. Leave it out.")
        check_classification_targets(y)
        classes, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"the labels have one class, {classes[0]!r}; expected two classes or more.")
        options: dict[str, Any] = {"seed": int(check_random_state(self.random_state).randint(2**31)), "log": ()}
        if self.device is not None:
            options["device"] = self.device
        with TemporaryDirectory() as folder:
            start = Path(folder) / "model.safetensors" if isinstance(self.model, VGG) else self.model
            if isinstance(self.model, VGG):
                save(self.model, start)
            run = train_with(
                Pictures(pictures, labels, [str(label) for label in classes]),  # type: ignore[arg-type]
                None if isinstance(self.fine_tune, bool) else self.fine_tune,
                options,
                out=Path(folder) / "run",
                init_from=start,
            )
            if not run.finished:
                raise KeyboardInterrupt
            self.network_ = open_model(run.weights, device="cpu").network
        self.classifier_ = _Network(self.network_, classes, self.batch_size, self.device)
        self.classes_ = classes
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of each image.

        Args:
            X: N images, as for `VGGFeatures`.

        Returns:
            (N,), of the type of the labels.

        Raises:
            NotFittedError: of scikit-learn, before `fit`.
            InputError: `X` are no images.
            ImageError: an image cannot be read.
        """
        return self._on_top("predict", X)

    @_if_on_top("predict_proba")
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probabilities (N, number of classes), in the order of `classes_`. Arguments and errors as `predict`."""
        return self._on_top("predict_proba", X)

    @_if_on_top("decision_function")
    def decision_function(self, X: Any) -> NDArray[Any]:
        """The scores (N, number of classes), or (N,) for two classes. Arguments and errors as `predict`."""
        return self._on_top("decision_function", X)

    def _new_top(self) -> Any:
        if self.fine_tune is not False:
            return _Network
        if self.classifier is not None:
            return clone(self.classifier)
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    def _top(self) -> Any:
        """The classifier on top; before `fit` one of its kind."""
        return getattr(self, "classifier_", None) or self._new_top()

    def _on_top(self, method: str, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        samples = self.features_.transform(X) if hasattr(self, "features_") else _pictures(X)
        found: NDArray[Any] = getattr(self.classifier_, method)(samples)
        return found


class _Network:
    """The methods of a classifier of scikit-learn, of pictures, by a network with as many classes."""

    def __init__(self, network: VGG, classes: NDArray[Any], batch_size: int, device: str | None) -> None:
        self.network = network
        self.classes_ = classes
        self.options: dict[str, Any] = {"batch_size": batch_size, "device": device, "on_error": "raise"}

    def predict_proba(self, pictures: list[Picture]) -> NDArray[np.float64]:
        names = self.network.classes or ()
        found: Any = predict(self.network, pictures, top=len(names), **self.options)
        rows = np.empty((len(found), len(names)))
        for row, prediction in zip(rows, found, strict=True):
            row[[names.index(name) for name in prediction.classes]] = prediction.probabilities
        return rows

    def decision_function(self, pictures: list[Picture]) -> NDArray[np.float64]:
        """The logarithms of the probabilities, which differ as the logits do."""
        rows: NDArray[np.float64] = np.log(np.maximum(self.predict_proba(pictures), np.finfo(np.float64).tiny))
        return rows[:, 1] - rows[:, 0] if len(self.classes_) == 2 else rows

    def predict(self, pictures: list[Picture]) -> NDArray[Any]:
        best: NDArray[Any] = self.classes_[self.predict_proba(pictures).argmax(1)]
        return best


def _pictures(X: Any) -> list[Picture]:
    """One picture for each sample.  Raises: InputError if there are none, or they are none."""
    samples = np.asarray(X) if hasattr(X, "iloc") else X  # a column of a table
    if isinstance(samples, np.ndarray):
        samples = samples[:, 0] if samples.ndim == 2 and samples.shape[1] == 1 else samples
        found = f"an array {samples.shape} of {samples.dtype}"
        pixels = samples.dtype == np.uint8 and samples.ndim == 4 and samples.shape[3] == 3
        fits = pixels or (samples.ndim == 1 and samples.dtype.kind in "OUT")
    else:
        found, fits = f"of type {type(samples).__name__}", isinstance(samples, list | tuple)
    if not fits:
        raise InputError(
            f"X is {found}; expected a sequence of paths and PIL images, or a uint8 array (N, H, W, 3). Make floats in "
            "[0, 1] uint8 by (X * 255).astype('uint8')."
        )
    if not len(samples):
        raise InputError("X has no images; give at least one.")
    pictures = list(samples)
    for picture in pictures:
        if isinstance(picture, str | Path) and Path(picture).expanduser().is_dir():
            raise InputError(f"{picture} is a folder; give the paths of its images, one for each sample.")
    return pictures
