"""The scikit-learn estimators: its rules, its own checks, and the values of the features."""

import copy
import pickle
import re
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import vggnet
from vggnet.errors import ConfigError, ImageError, InputError, MissingDependencyError, WeightsError
from vggnet.estimators import VGGClassifier, VGGFeatures


@pytest.fixture(scope="module")
def network():
    """A VGG-11 with few channels and random weights, in eval mode."""
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11_bn", num_classes=3, head="gap", width=0.05)
    model.preprocess = vggnet.Preprocess(resize=32, crop=32)
    return model.eval()


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    vggnet.save(network, path)
    return str(path)


@pytest.fixture(scope="module")
def photos():
    """12 images of noise, uint8 (12, 36, 40, 3): six dark ones, then six bright ones."""
    rng = np.random.default_rng(0)
    brightness = np.repeat([40, 200], 6)[:, None, None, None]
    return (brightness + rng.integers(0, 50, (12, 36, 40, 3))).astype(np.uint8)


LABELS = np.repeat(["dark", "light"], 6)


@pytest.fixture(scope="module")
def files(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in range(len(photos))]
    for path, pixels in zip(paths, photos, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.mark.parametrize("pooling", [None, "mean", "max"])
def test_the_features_are_the_outputs_of_the_layer(pooling, network, weights, photos):
    """Oracle: PyTorch's own layers up to that one, a batch at a time; pooled by numpy."""
    batch = torch.stack([network.preprocess(Image.fromarray(pixels)) for pixels in photos])
    with torch.no_grad():
        for name, layer in network.features.named_children():
            batch = layer(batch)
            if name == "relu4_1":
                break
    maps = batch.numpy()
    expected = {None: maps.reshape(12, -1), "mean": maps.mean((2, 3)), "max": maps.max((2, 3))}[pooling]
    features = VGGFeatures(weights, layer="relu4_1", pooling=pooling, batch_size=5)
    found = features.fit_transform(photos)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert len(features.get_feature_names_out()) == found.shape[1]
    assert isinstance(features.set_output(transform="pandas").transform(photos), pd.DataFrame)


def test_every_form_of_the_images_has_the_same_features(weights, photos, files):
    """Oracle: the array; PNG is lossless."""
    features = VGGFeatures(weights).fit(photos)
    expected = features.transform(photos)
    names = [str(path) for path in files]
    forms = {
        "paths": files,
        "tuple": tuple(names),
        "array of str": np.array(names),
        "Series": pd.Series(names),
        "one column": pd.DataFrame({"file": names}),
        "PIL": [Image.fromarray(pixels) for pixels in photos],
        "list of arrays": list(photos),
    }
    for name, images in forms.items():
        assert np.array_equal(features.transform(images), expected), name


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("photo.png", "of type str"),
        ([], "no images"),
        (np.zeros((0, 32, 32, 3), np.uint8), "no images"),
        (np.zeros((4, 12)), "array \\(4, 12\\) of float64"),
        (np.zeros((4, 32, 32, 3)), "astype\\('uint8'\\)"),
        (np.zeros((32, 32, 3), np.uint8), "array \\(32, 32, 3\\)"),
        (Image.new("RGB", (32, 32)), "of type Image"),
        (torch.zeros(2, 3, 32, 32), "of type Tensor"),
        (["."], "is a folder"),
    ],
)
def test_what_is_no_images_is_an_error_of_one_line(images, named, weights, photos):
    """Oracle: the documented types; a mistake is found before the network runs."""
    for use in (VGGFeatures(weights).fit, VGGFeatures(weights).fit(photos).transform):
        with pytest.raises(InputError, match=named) as raised:
            use(images)
        assert "\n" not in str(raised.value)


def test_mistakes_come_from_fit(weights, photos, tmp_path):
    """Oracle: the documented errors; a constructor checks nothing, as scikit-learn wants it."""
    for features, error in [
        (VGGFeatures(weights, layer="conv9_9"), ConfigError),
        (VGGFeatures(weights, layer=["pool4", "pool5"]), ConfigError),
        (VGGFeatures(weights, pooling="median"), ConfigError),
        (VGGFeatures(weights, batch_size=0), ConfigError),
        (VGGFeatures(tmp_path / "nothing.safetensors"), WeightsError),
    ]:
        with pytest.raises(error):
            features.fit(photos)
    with pytest.raises(ImageError, match="broken"):
        VGGFeatures(weights).fit_transform([tmp_path / "broken.png"])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        VGGClassifier(weights).fit(photos, LABELS[:-1])
    for estimator in (VGGFeatures(weights), VGGClassifier(weights)):
        with pytest.raises(NotFittedError):
            (getattr(estimator, "transform", None) or estimator.predict)(photos)


def test_the_classifier_is_scikit_learns_on_the_features(weights, photos):
    """Oracle: scikit-learn's own pipeline, fitted on the features; probabilities, scores, classes and accuracy."""
    labels = np.array(["b", "a", "c"] * 4)
    vectors = VGGFeatures(weights, layer="relu3_2").fit_transform(photos)
    expected = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(vectors, labels)
    ours = VGGClassifier(weights, layer="relu3_2").fit(photos, labels)
    assert ours.classes_.tolist() == ["a", "b", "c"]
    assert np.array_equal(ours.predict(photos), expected.predict(vectors))
    np.testing.assert_allclose(ours.predict_proba(photos), expected.predict_proba(vectors))
    np.testing.assert_allclose(ours.decision_function(photos), expected.decision_function(vectors))
    assert ours.score(photos, labels) == expected.score(vectors, labels)


def test_another_classifier_on_top(weights, photos):
    """Oracle: RidgeClassifier has no probabilities; what was given stays unfitted."""
    ridge = RidgeClassifier()
    ours = VGGClassifier(weights, classifier=ridge)
    assert not hasattr(ours, "predict_proba")
    assert ours.fit(photos, LABELS).score(photos, LABELS) == 1
    assert isinstance(ours.classifier_, RidgeClassifier)
    assert not hasattr(ridge, "coef_")
    assert not hasattr(ours, "predict_proba")
    assert hasattr(VGGClassifier(weights), "predict_proba")


def test_searches_and_pipelines_take_them(weights, photos, files):
    """Oracle: dark and bright images are told apart by any layer; parameters are found by scikit-learn's names."""
    search = GridSearchCV(
        VGGClassifier(weights, classifier=LogisticRegression()),
        {"layer": ["relu1_1", "pool2"], "classifier__C": [0.1, 1]},
        cv=2,
    )
    search.fit([str(path) for path in files], LABELS)
    assert search.best_score_ == 1
    assert len(search.cv_results_["params"]) == 4
    pipeline = make_pipeline(VGGFeatures(weights), StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"vggfeatures__pooling": ["mean", "max"]}, cv=2).fit(photos, LABELS)
    assert search.predict(photos).tolist() == LABELS.tolist()


@pytest.mark.parametrize("form", ["file", "network"])
def test_fitted_ones_are_stored_and_keep_their_own_weights(form, network, weights, photos, tmp_path):
    """Oracle: predictions before; joblib's file and a copy give them after the network that was given has changed."""
    given = copy.deepcopy(network) if form == "network" else weights
    ours = VGGClassifier(given, layer="relu2_1").fit(photos, LABELS)
    expected = ours.predict_proba(photos)
    joblib.dump(ours, tmp_path / "ours.joblib")
    if form == "network":
        for parameter in given.parameters():
            parameter.data.zero_()
        assert given.training is False
    for restored in (joblib.load(tmp_path / "ours.joblib"), pickle.loads(pickle.dumps(ours)), ours):
        assert np.array_equal(restored.predict_proba(photos), expected)
    layers = [name for name, _ in ours.features_.extractor_.named_modules()]
    assert not any("conv3" in name or "head" in name for name in layers)
    assert clone(ours).get_params(deep=False).keys() == ours.get_params(deep=False).keys()


def test_the_default_needs_no_download(photos):
    """Oracle: the file that ships with the package; the last map of its convolutions has 384 channels."""
    assert VGGFeatures().fit_transform(photos[:2]).shape == (2, 384)


@pytest.mark.slow
def test_the_example_of_the_guide_runs():
    """Oracle: ten classes by chance give 0.1; the pixels themselves give 0.87 on these digits."""
    page = (Path(__file__).parents[1] / "docs" / "guides" / "sklearn.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    assert names["classifier"].score(names["test"], names["test_labels"]) > 0.8


def tuning(weights, **options):
    """A short training of the given network."""
    neutral = {"epochs": 1, "batch_size": 4, "val_fraction": 0, "lr": 0.01, "warmup": 0.0, "shift": 2, "rotation": 0.0}
    return vggnet.preset("digits", init_from=weights).override(**neutral | options)


def test_fine_tuning_is_the_training_of_the_same_files(weights, photos, files, tmp_path):
    """Oracle: `vggnet.train` on class folders of these files: every weight is the same, so pixels, their augmentation
    and their order are; the probabilities are those of the network, by PyTorch; a saved file has the names."""
    for path, label in zip(files, LABELS, strict=True):
        (tmp_path / "data" / "train" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "train" / label / path.name.zfill(8)).write_bytes(path.read_bytes())
    seed = np.random.RandomState(3).randint(2**31)
    config = tuning(weights, seed=int(seed))
    expected = vggnet.load(vggnet.train(tmp_path / "data", config, out=tmp_path / "run", init_from=weights).folder)

    for images in (photos, files):
        ours = VGGClassifier(weights, fine_tune=tuning(weights), random_state=3).fit(images, LABELS)
        for name, tensor in expected.state_dict().items():
            assert torch.equal(ours.network_.state_dict()[name], tensor), name
    batch = torch.stack([expected.preprocess(Image.fromarray(pixels)) for pixels in photos])
    with torch.no_grad():
        probabilities = expected(batch).softmax(1).numpy()
    np.testing.assert_allclose(ours.predict_proba(photos), probabilities, rtol=1e-4)
    np.testing.assert_allclose(
        ours.decision_function(photos), np.log(probabilities[:, 1] / probabilities[:, 0]), rtol=1e-3, atol=1e-5
    )
    assert ours.predict(photos).tolist() == [ours.classes_[index] for index in probabilities.argmax(1)]
    vggnet.save(ours.network_, tmp_path / "ours.safetensors")
    assert vggnet.load(tmp_path / "ours.safetensors").classes == ("dark", "light")


def test_a_fine_tuned_one_keeps_to_the_conventions(network, weights, photos, tmp_path):
    """Oracle: the labels of the images, which differ in brightness; a network that is given stays as it was; joblib's
    file predicts the same; a second fit without fine-tuning leaves nothing of the first."""
    before = copy.deepcopy(network.state_dict())
    config = tuning(weights, epochs=6, lr=0.05)
    ours = VGGClassifier(network, fine_tune=config, random_state=0)
    labels = np.repeat([7, 3], 6)
    assert clone(ours).fit(photos, labels).score(photos, labels) == 1
    assert not hasattr(ours, "classes_")
    for name, tensor in network.state_dict().items():
        assert torch.equal(before[name], tensor)
    ours.fit(photos, labels)
    assert ours.classes_.tolist() == [3, 7]
    joblib.dump(ours, tmp_path / "ours.joblib")
    assert np.array_equal(joblib.load(tmp_path / "ours.joblib").predict_proba(photos), ours.predict_proba(photos))
    ours.set_params(fine_tune=False).fit(photos, labels)
    assert not hasattr(ours, "network_")
    assert ours.score(photos, labels) == 1


def test_what_fine_tuning_does_not_use_is_refused(weights, photos):
    """Oracle: the documented errors."""
    for options in ({"layer": "pool4"}, {"pooling": None}, {"classifier": RidgeClassifier()}):
        with pytest.raises(ConfigError, match="is not used with fine_tune"):
            VGGClassifier(weights, fine_tune=True, **options).fit(photos, LABELS)
    with pytest.raises(ConfigError, match="unknown preset 'slow'"):
        VGGClassifier(weights, fine_tune="slow").fit(photos, LABELS)
    with pytest.raises(ValueError, match="one class"):
        VGGClassifier(weights, fine_tune=True).fit(photos, ["same"] * 12)
    with pytest.raises(ImageError, match="broken"):
        VGGClassifier(weights, fine_tune=tuning(weights)).fit([photos[0], "broken.png"], [0, 1])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    """Oracle: the extra in pyproject.toml."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "vggnet.estimators")
    with pytest.raises(MissingDependencyError, match=r"scikit-learn is not installed; pip install 'vggnet\[sklearn\]'"):
        import vggnet.estimators  # noqa: F401


# scikit-learn's own checks ------------------------------------------------------------------------------------------


def tables(estimator):
    """The estimator with the tag of those that take tables of numbers: others are not checked at all."""

    class Tagged(estimator):
        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array, tags.input_tags.string = True, False
            return tags

    return Tagged


def painted(rows):
    """A table of numbers (N, D) as images: each number is the brightness of an upright stripe."""
    stripes = np.arange(8) * rows.shape[1] // 8
    brightness = np.clip(128 + 12 * rows[:, stripes], 0, 255).astype(np.uint8)
    return np.broadcast_to(brightness[:, None, :, None], (len(rows), 8, 8, 3))


class PaintedFeatures(tables(VGGFeatures)):
    def fit(self, X, y=None):
        return super().fit(painted(validate_data(self, X)))

    def transform(self, X):
        check_is_fitted(self)
        return super().transform(painted(validate_data(self, X, reset=False)))


class PaintedClassifier(tables(VGGClassifier)):
    def fit(self, X, y):
        X, y = validate_data(self, X, y)
        return super().fit(painted(X), y)

    def _on_top(self, method, X):
        check_is_fitted(self)
        return super()._on_top(method, painted(validate_data(self, X, reset=False)))


# scikit-learn's check -> why it cannot pass. `PaintedFeatures` and `PaintedClassifier` pass all of these.
FLOATS = "fits a table of floats; samples are images, and a table is refused with InputError"
WORDS = "wants the words that scikit-learn has for such a table; that it is none is what the error says"
IMPOSSIBLE = {
    "check_fit_score_takes_y": FLOATS,
    "check_estimators_overwrite_params": FLOATS,
    "check_dont_overwrite_parameters": FLOATS,
    "check_estimators_fit_returns_self": FLOATS,
    "check_readonly_memmap_input": FLOATS,
    "check_n_features_in_after_fitting": FLOATS,
    "check_positive_only_tag_during_fit": FLOATS,
    "check_estimators_dtypes": FLOATS,
    "check_dtype_object": FLOATS,
    "check_pipeline_consistency": FLOATS,
    "check_estimators_pickle": FLOATS,
    "check_f_contiguous_array_estimator": FLOATS,
    "check_methods_sample_order_invariance": FLOATS,
    "check_methods_subset_invariance": FLOATS,
    "check_dict_unchanged": FLOATS,
    "check_fit_idempotent": FLOATS,
    "check_fit_check_is_fitted": FLOATS,
    "check_n_features_in": FLOATS,
    "check_fit2d_predict1d": FLOATS,
    "check_transformer_data_not_an_array": FLOATS,
    "check_transformer_general": FLOATS,
    "check_classifier_data_not_an_array": FLOATS,
    "check_classifiers_one_label": FLOATS,
    "check_classifiers_classes": FLOATS,
    "check_classifiers_train": FLOATS,
    "check_supervised_y_2d": FLOATS,
    "check_decision_proba_consistency": FLOATS,
    "check_classifiers_regression_target": WORDS,
    "check_requires_y_none": WORDS,
    "check_complex_data": WORDS,
    "check_estimators_empty_data_messages": WORDS,
    "check_estimators_nan_inf": WORDS,
    "check_estimator_sparse_tag": WORDS,
    "check_estimator_sparse_array": WORDS,
    "check_estimator_sparse_matrix": WORDS,
    "check_fit2d_1sample": WORDS,
    "check_fit2d_1feature": WORDS,
}


def failures(estimator):
    """The names of the checks that fail; how many passed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of single checks, such as those that are skipped
        results = check_estimator(estimator, on_fail=None)
    names = {
        status: {row["check_name"] for row in results if row["status"] == status} for status in ("failed", "passed")
    }
    return names["failed"], names["passed"]


@pytest.mark.parametrize("estimator", [VGGFeatures, VGGClassifier])
def test_the_checks_of_scikit_learn(estimator, weights):
    """Oracle: scikit-learn's checks; those that fail are the ones for which images are no tables of floats."""
    failed, passed = failures(tables(estimator)(weights))
    assert failed <= IMPOSSIBLE.keys()
    assert not passed & IMPOSSIBLE.keys()
    assert len(passed) >= 14


@pytest.mark.parametrize(
    "estimator",
    [PaintedFeatures, pytest.param(PaintedClassifier, marks=pytest.mark.slow)],  # 5 to 10 s
)
def test_the_checks_of_scikit_learn_on_tables_that_become_images(estimator, network, tmp_path):
    """Oracle: scikit-learn's checks, none left out, on images that are painted from their tables."""
    small = copy.deepcopy(network)
    small.preprocess = vggnet.Preprocess(resize=8, crop=8)
    vggnet.save(small, tmp_path / "small.safetensors")
    weights = str(tmp_path / "small.safetensors")
    failed, passed = failures(estimator(weights, layer="pool1", pooling=None, batch_size=256))
    assert not failed
    assert len(passed) >= 40
