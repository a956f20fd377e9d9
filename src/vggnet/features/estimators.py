"""scikit-learn estimators: features of a VGG as a transformer, and a classifier of images on top of them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vggnet.data.images import Picture
from vggnet.devices import choose_device
from vggnet.errors import ConfigError, InputError, require
from vggnet.features.extractor import FeatureExtractor, Pooling, features_of_pictures
from vggnet.models.vgg import VGG
from vggnet.weights.checkpoint import open_model
from vggnet.weights.registry import DEFAULT_WEIGHTS

require("sklearn", "sklearn")
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

LAYER = "pool5"  # the last one of the convolutions of every network
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
    """scikit-learn classifier of images: frozen features of a VGG and a classifier on top. Needs the extra `sklearn`.

    To train the network itself, see `vggnet.train`.

    Args:
        model: as for `VGGFeatures`, as are `layer`, `pooling`, `batch_size` and `device`.
        layer: by the paper's name.
        pooling: of the layer's map.
        classifier: any classifier of scikit-learn, which is cloned; by default each feature is standardized and a
            `LogisticRegression` follows.
        batch_size: images at a time through the network.
        device: "cpu", "cuda", ...

    Attributes:
        features_: the fitted `VGGFeatures`.
        classifier_: the fitted classifier on top.
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
        batch_size: int = 16,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.classifier = classifier
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Compute the features of the images and train the classifier on top.

        Args:
            X: N images, as for `VGGFeatures`.
            y: their N labels, numbers or strings.

        Raises:
            ConfigError: a layer or an option is unknown or impossible.
            InputError: `X` are no images.
            ImageError: an image cannot be read.
            WeightsError: there is no such model, or it has no preprocessing.
            ValueError: `y` are not N labels of two or more classes.
        """
        pictures = _pictures(X)
        check_consistent_length(pictures, y)
        options = {name: value for name, value in self.get_params(deep=False).items() if name != "classifier"}
        self.features_ = VGGFeatures(**options).fit(pictures)
        self.classifier_ = self._new_top().fit(self.features_.transform(pictures), y)
        self.classes_ = self.classifier_.classes_
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
        if self.classifier is not None:
            return clone(self.classifier)
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    def _top(self) -> Any:
        """The classifier on top; before `fit` one of its kind."""
        return getattr(self, "classifier_", None) or self._new_top()

    def _on_top(self, method: str, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        found: NDArray[Any] = getattr(self.classifier_, method)(self.features_.transform(X))
        return found


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
