"""Fully connected layers as two: the best approximation of the weights, or of the outputs, of its rank."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from vggnet.compression.factorize import factorize
from vggnet.errors import ConfigError
from vggnet.models.vgg import build


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 24)
    torch.manual_seed(0)
    network = build("vgg11", num_classes=20, head="paper", width=0.02).double().eval()
    for layer in (network.head.fc6, network.head.fc7, network.head.fc8):
        with torch.no_grad():  # singular values that fall
            layer.weight.copy_(layer.weight @ torch.diag(0.9 ** torch.arange(layer.in_features).double()))
    return network


@pytest.fixture
def varied(monkeypatch):
    """A network whose layers return something else for each image."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 24)
    torch.manual_seed(0)
    return build("vgg11", num_classes=20, head="paper", width=0.25).double().eval()


def product(model, name):
    head = model.head
    return getattr(head, name).weight @ getattr(head, f"{name}_reduce").weight


@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_each_layer_is_the_truncated_svd(model, shape):
    """Oracle: torch.linalg.svd in float64, for matrices with more columns than rows, and with fewer."""
    if shape == "tall":
        with torch.no_grad():
            model.head.fc6 = torch.nn.Linear(24, 490).double()
            model.head.fc6.weight.copy_(torch.randn(490, 24))
        from vggnet.compression.factorize import _factors_of_weights

        expand, reduce, _ = _factors_of_weights(model.head.fc6, None, 5)
        found, weight = expand @ reduce, model.head.fc6.weight.detach()
    else:
        small = factorize(model, rank=5)
        assert small.architecture.ranks == (5, 5, 5)
        found, weight = product(small, "fc6"), model.head.fc6.weight.detach()
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    expected = left[:, :5] @ torch.diag(values[:5]) @ right[:5]
    torch.testing.assert_close(found.detach(), expected)


def test_energy_chooses_the_smallest_rank(model):
    """Oracle: the singular values of torch.linalg.svd: one rank less keeps a smaller share."""
    small = factorize(model, energy=0.8)
    for name, rank in zip(("fc6", "fc7", "fc8"), small.architecture.ranks, strict=True):
        squares = torch.linalg.svdvals(getattr(model.head, name).weight) ** 2
        shares = (squares.cumsum(0) / squares.sum()).tolist()
        assert rank
        assert shares[rank - 1] >= 0.8 > (shares[rank - 2] if rank > 1 else 0)


def test_logits_are_those_of_the_products(model):
    """Oracle: the network with each weight replaced by the product; biases are kept."""
    small = factorize(model, rank=6)
    images = torch.randn(2, 3, 40, 40).double()
    found = small(images)
    with torch.no_grad():
        for name in ("fc6", "fc7", "fc8"):
            getattr(model.head, name).weight.copy_(product(small, name))
    torch.testing.assert_close(found, model(images))


def head_layers(model, images):
    """Inputs and outputs of the fully connected layers of a network that is not factorized."""
    seen = {}
    for name in ("fc6", "fc7", "fc8"):
        hook = lambda layer, given, output, name=name: seen.update({name: (given[0], output)})  # noqa: E731
        getattr(model.head, name).register_forward_hook(hook)
    model(images)
    return dict(seen)


def approximated(small, name, given):
    """The outputs of the two layers."""
    reduce, expand = getattr(small.head, f"{name}_reduce"), getattr(small.head, name)
    return F.linear(F.linear(given, reduce.weight), expand.weight, expand.bias).detach().numpy()


@pytest.mark.parametrize("options", [{"rank": 5}, {"energy": 0.7}])
def test_with_images_logits_are_projected_onto_their_principal_components(model, options):
    """Oracle: scikit-learn's PCA of the logits, all of which count the same; `n_components` is a number or a share."""
    images = 1e7 * torch.rand(40, 3, 40, 40).double()  # so that outputs are about 1
    small = factorize(model, batches=images.split(16), **options)
    given, logits = head_layers(model, images)["fc8"]
    pca = PCA(next(iter(options.values())), svd_solver="full").fit(logits.detach().numpy())
    expected = pca.inverse_transform(pca.transform(logits.detach().numpy()))
    assert small.architecture.ranks[2] == pca.n_components_
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(approximated(small, "fc8", given), expected, rtol=1e-6, atol=1e-9)


def test_with_images_the_error_is_the_least_by_what_follows(varied):
    """Oracle: the eigenvalues of M C that remain, by SciPy, with PyTorch's Jacobians of the layers that follow."""
    images, rank = 1e3 * torch.randn(40, 3, 40, 40).double(), 4
    small, before, head = (
        factorize(varied, batches=images.split(16), rank=rank),
        head_layers(varied, images),
        varied.head,
    )
    rest = {"fc6": lambda y: head.fc8(head.fc7(y.relu()).relu()), "fc7": lambda y: head.fc8(y.relu())}
    for name, following in rest.items():
        given, outputs = before[name]
        jacobians = torch.stack([torch.func.jacrev(following)(y) for y in outputs.detach()])  # (n, 20, 24)
        gradients = jacobians[torch.arange(40), torch.arange(40) % 20].detach().numpy()
        metric = gradients.T @ gradients / 40
        metric += 0.1 * metric.diagonal().mean() * np.eye(24)
        outputs = outputs.detach().numpy()
        centered, errors = outputs - outputs.mean(0), approximated(small, name, given) - outputs
        left = np.sort(scipy.linalg.eigvals(metric @ centered.T @ centered).real)[: 24 - rank].sum()
        assert left > 0
        np.testing.assert_allclose(np.einsum("ni,ij,nj->", errors, metric, errors), left, rtol=1e-6)


def test_outputs_that_nothing_reads_are_given_up(varied):
    """Oracle: the error of the logits by scikit-learn's PCA, which keeps the outputs of fc6 that fc7 does not read."""
    with torch.no_grad():
        varied.head.fc6.weight[:18] *= 2
        varied.head.fc7.weight[:, :18] = 0
    images = 1e3 * torch.randn(40, 3, 40, 40).double()
    given, outputs = head_layers(varied, images)["fc6"]
    outputs, head = outputs.detach().numpy(), varied.head
    pca = PCA(6, svd_solver="full").fit(outputs)
    ways = [approximated(factorize(varied, rank=6, batches=[images]), "fc6", given)]
    ways.append(pca.inverse_transform(pca.transform(outputs)))
    exact, *logits = (head.fc8(head.fc7(torch.from_numpy(y).relu()).relu()).detach() for y in (outputs, *ways))
    errors = [float((one - exact).norm() / (exact - exact.mean(0)).norm()) for one in logits]
    assert errors[0] < 0.3 < 0.6 < errors[1]


def test_few_images_are_answered_as_before(model):
    """Oracle: the given network: the outputs for four images vary in three directions."""
    images = 1e7 * torch.rand(4, 3, 40, 40).double()
    small, expected = factorize(model, rank=3, batches=[images]), model(images)
    torch.testing.assert_close(small(images), expected)
    assert (factorize(model, rank=3)(images) - expected).norm() > 0.1 * expected.norm() > 0.01


def test_layers_that_would_grow_stay_whole(model):
    """Oracle: by hand: 24 x 24 weights are fewer than 12 x (24 + 24), 490 x 24 more than 12 x (490 + 24)."""
    small = factorize(model, rank=12)
    assert small.architecture.ranks == (12, 0, 0)
    assert torch.equal(small.head.fc7.weight, model.head.fc7.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "just one"),
        ({"energy": 0.5, "rank": 3}, "just one"),
        ({"energy": 1.0}, "in \\(0, 1\\)"),
        ({"rank": 0}, "at least 1"),
        ({"rank": 24}, "no fully connected layer that is smaller"),
    ],
)
def test_mistakes(model, options, message):
    """Oracle: the documented rules."""
    with pytest.raises(ConfigError, match=message):
        factorize(model, **options)


def test_twice_is_refused(model):
    """Oracle: the documented rule."""
    with pytest.raises(ConfigError, match="factorized already"):
        factorize(factorize(model, rank=3), rank=2)
