"""The command and its steps together: files, tables, training on, mistakes."""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import vggnet
from vggnet.cli.main import main
from vggnet.compression.shrink import shrink
from vggnet.compression.shrink_options import ShrinkOptions
from vggnet.compression.tuning import Tuner, recipe_of
from vggnet.errors import ConfigError
from vggnet.interpret.costs import count_macs
from vggnet.models.vgg import Architecture, build, empty
from vggnet.weights.checkpoint import Checkpoint


@pytest.fixture
def given(tmp_path):
    """A network whose batch norm does something."""
    torch.manual_seed(0)
    model = build("vgg11_bn", num_classes=2, head="cifar", width=0.15).eval()
    for key, tensor in model.state_dict().items():
        if ".bn" in key and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if key.endswith("running_var") else tensor.uniform_(-0.2, 0.9)
    classes = ("cat", "dog")
    path = tmp_path / "given.safetensors"
    vggnet.save(model, path, classes=classes, preprocess=vggnet.Preprocess(resize=32, crop=32), provenance={"epoch": 3})
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A network trained on the digits for a moment, with what its file says of that."""
    config = vggnet.preset("digits").override(epochs=1, width=0.25, batch_size=256, seed=7)
    run = vggnet.train("digits", config, out=tmp_path_factory.mktemp("digits") / "run")
    return run.weights


@pytest.fixture
def photos(tmp_path):
    """Class folders of two classes, with eight images to train on and eight to test."""
    torch.manual_seed(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def vgg(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def test_the_steps_compose_and_the_file_opens_like_any_other(given, photos, tmp_path, vgg):
    """Oracle: the file: its size, its numbers counted one by one, its metadata; the network before the last step."""
    out = tmp_path / "small.safetensors"
    code, text, err = vgg(
        "shrink", given, "--steps", "prune,fold,factorize,half", "--to-macs", 0.5, "--multiple", 8, "--rank", 1,
        "-o", out, "--data", photos, "--json",
    )  # fmt: skip
    assert code == 0, err
    assert f"--steps prune,distill, or vgg train --data {photos} --init-from {out}" in err
    found = json.loads(text)
    assert [row["step"] for row in found["rows"]] == ["given", "prune", "fold", "factorize", "half"]
    assert found["file_bytes"] == out.stat().st_size
    before, pruned, folded, factorized, half = found["rows"]
    assert pruned["macs"] <= 0.5 * before["macs"]
    assert folded["macs"] == pruned["macs"]
    assert [row["test_accuracy"] is None for row in found["rows"]] == [False, True, True, True, False]
    assert folded["val_accuracy"] == pruned["val_accuracy"]
    assert all(row["latency"] > 0 and row["images_per_second"] > 0 for row in found["rows"])
    assert half["parameters"] == factorized["parameters"] < folded["parameters"] < pruned["parameters"]
    with safe_open(out, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        provenance = json.loads(file.metadata()["provenance"])
    assert sum(t.numel() for t in tensors.values()) == half["parameters"]
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == half["weights_bytes"]
    assert {t.dtype for t in tensors.values() if t.ndim > 1} == {torch.float16}
    assert provenance["epoch"] == 3
    assert [row["step"] for row in provenance["shrunk"][0]["steps"]] == [row["step"] for row in found["rows"]]
    model = Checkpoint.open(out).build()
    assert (model.architecture.name, model.architecture.ranks) == ("vgg11", (1,))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert vggnet.evaluate(out, photos).top1 == half["test_accuracy"]
    assert "pruned" in vgg("show", out)[1]


def test_a_table_for_people(given, tmp_path, vgg):
    """Oracle: the steps in order, and no accuracy without data."""
    code, text, _ = vgg("shrink", given, "--steps", "fold", "-o", tmp_path / "small.safetensors")
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["step", "parameters"]
    assert [line.split()[0] for line in lines[1:3]] == ["given", "fold"]
    assert "vgg11_bn is vgg11" in lines[2]
    assert "small.safetensors" in lines[-1]
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.width > 2 * picture.height


def test_what_was_shrunk_is_shrunk_again_and_says_so(given, tmp_path):
    """Oracle: both records, in order; half precision is exact the second time."""
    shrink(given, ["fold", "half"], tmp_path / "a.safetensors")
    result = shrink(tmp_path / "a.safetensors", ["half"], tmp_path / "b.safetensors")
    a, b = Checkpoint.open(tmp_path / "a.safetensors"), Checkpoint.open(tmp_path / "b.safetensors")
    assert [record["from"] for record in b.provenance["shrunk"]] == [str(given), str(tmp_path / "a.safetensors")]
    assert all(torch.equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())
    assert result.rows[0].weights_bytes == result.rows[1].weights_bytes


def test_the_tutorials_model_loses_100_million_parameters(tmp_path, monkeypatch):
    """Oracle: by hand: fc6 loses 48 of 49 blocks of 512 x 4096 weights; at a smaller width the logits, within 1e-4."""
    sizes = [empty(Architecture(name="vgg16_bn", num_classes=10, head=head)) for head in ("paper", "folded")]
    given, folded = (sum(p.numel() for p in model.parameters()) for model in sizes)
    assert given - folded == 48 * 512 * 4096 > 100e6
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 64)
    model = build("vgg11_bn", num_classes=10, head="paper", width=0.02).eval()
    model.preprocess = vggnet.Preprocess(resize=32, crop=32)
    vggnet.save(model, tmp_path / "given.safetensors")
    first, last = shrink(tmp_path / "given.safetensors", ["fold"], tmp_path / "small.safetensors").rows
    channels = model.features.conv5_2.out_channels
    norms = sum(2 * layer.num_features for layer in model.features if isinstance(layer, torch.nn.BatchNorm2d))
    assert first.parameters - last.parameters == 48 * channels * 64 + norms
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, expected = vggnet.load(tmp_path / "small.safetensors")(images), model(images)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_training_goes_on_from_a_shrunk_network(given, photos, tmp_path):
    """Oracle: the shapes of the shrunk network before and after; its weights where training begins; a resumed run."""
    small = tmp_path / "small.safetensors"
    shrink(given, ["prune", "factorize"], small, ShrinkOptions(multiple=8, to_macs=0.5, rank=1))
    config = vggnet.preset("quick", init_from=small).override(
        workers=0, batch_size=4, optimizer="sgd", lr=1e-9, weight_decay=0.0, epochs=1, val_fraction=0.0
    )
    run = vggnet.train(photos, config, init_from=small, out=tmp_path / "run")
    before, after = Checkpoint.open(small), Checkpoint.open(run.folder)
    assert after.architecture == before.architecture
    for name, tensor in before.tensors().items():
        if ".bn" not in name:
            torch.testing.assert_close(after.tensors()[name], tensor, rtol=0, atol=1e-4)
    run = vggnet.resume(run.folder, epochs=2)
    assert Checkpoint.open(run.folder).architecture == before.architecture
    assert len(run.history) == 2


def test_a_shrunk_network_is_accelerated(given, tmp_path):
    """Oracle: PyTorch's own layers."""
    shrink(given, ["prune", "fold"], tmp_path / "small.safetensors", ShrinkOptions(multiple=8, to_macs=0.5))
    images = torch.randn(3, 3, 32, 32)
    model = vggnet.load(tmp_path / "small.safetensors")
    with torch.inference_mode():
        expected = model(images)
        found = vggnet.accelerate(vggnet.load(tmp_path / "small.safetensors"))(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_a_network_is_pruned_in_rounds_taught_and_quantized(digits, tmp_path, monkeypatch):
    """Oracle: the run folders and what they say; the file, read without vggnet; the same call trains nothing again."""
    out = tmp_path / "small.safetensors"
    options = ShrinkOptions(multiple=8, to_macs=0.5, rounds=2, criterion="taylor", epochs=1)
    steps = ["prune", "distill", "fold", "quantize"]
    result = shrink(digits, steps, out, options, data="digits")
    runs = {
        path.name.rsplit("-", 1)[0]: vggnet.Run.open(path) for path in (tmp_path / "small-steps").glob("*-*[0-9a-f]")
    }
    assert sorted(runs) == ["distill", "round-1"]
    assert runs["distill"].config.optimizer.teacher == str(digits)
    assert runs["round-1"].config.optimizer.teacher is None
    assert all(run.config.run.seed == 7 and run.config.schedule.epochs == 1 for run in runs.values())
    own = vggnet.Run.open(digits.parent).config.optimizer.lr
    assert {run.config.optimizer.lr for run in runs.values()} == {own / 4}
    channels = Checkpoint.open(runs["distill"].folder).architecture.channels
    assert channels == Checkpoint.open(out).architecture.channels
    assert result.rows[1].macs <= 0.5 * result.rows[0].macs
    assert result.rows[0].val_accuracy is not None
    with safe_open(out, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert result.rows[-1].weights_bytes == sum(t.numel() * t.element_size() for t in tensors.values())
    folded = {name: tensor for name, tensor in vggnet.load(out).state_dict().items() if tensor.ndim > 1}
    for name, weight in folded.items():
        assert tensors[name].dtype == torch.int8
        steps_of = tensors[f"{name}.step"].reshape(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(weight, tensors[name].float() * steps_of, rtol=0, atol=0)
        assert tensors[name].flatten(1).abs().amax(1).tolist() == [127] * len(weight)
    monkeypatch.setattr("vggnet.compression.tuning.train_with", None)
    shrink(digits, steps, tmp_path / "small.safetensors", options, data="digits")
    assert all(torch.equal(folded[name], vggnet.load(out).state_dict()[name]) for name in folded)


def test_a_file_of_a_given_size(digits, tmp_path):
    """Oracle: the size of the file on the disk, which is not far below the target."""
    for kilobytes, steps in ((80, ["prune", "fold", "half"]), (70, ["prune", "quantize"])):
        out = tmp_path / "small.safetensors"
        shrink(digits, steps, out, ShrinkOptions(multiple=8, to_size=kilobytes * 1000))
        assert 0.8 * kilobytes * 1000 < out.stat().st_size <= kilobytes * 1000


def test_the_smallest_network_within_a_drop(digits, tmp_path, monkeypatch):
    """Oracle: an accuracy that is a known function of the multiply-adds, so that 14/32 is the smallest share."""
    whole = count_macs(empty(Checkpoint.open(digits).architecture), 32)
    monkeypatch.setattr(
        "vggnet.compression.tuning.Tuner.accuracy",
        lambda self, network: 0.9 if count_macs(empty(network.architecture), 32) > 13 / 32 * whole else 0.5,
    )
    monkeypatch.setattr("vggnet.compression.tuning.Tuner.tune", lambda self, network, name, **options: network)
    monkeypatch.setattr("vggnet.compression.tuning.Tuner.renew_statistics", lambda self, network: None)
    options = ShrinkOptions(multiple=8, max_drop=1, floor=0)
    result = shrink(digits, ["prune", "tune"], tmp_path / "small.safetensors", options, data="digits")
    assert 13 / 32 < result.rows[1].macs / whole <= 14 / 32
    monkeypatch.setattr(
        "vggnet.compression.tuning.Tuner.accuracy",
        lambda self, network: 0.9 if count_macs(empty(network.architecture), 32) == whole else 0.5,
    )
    with pytest.raises(ConfigError, match=r"the best validation accuracy was 50.00 %, without pruning 90.00 %"):
        shrink(digits, ["prune", "tune"], tmp_path / "other.safetensors", options, data="digits")
    assert not (tmp_path / "other.safetensors").exists()


def test_a_new_head_is_trained_alone(digits, tmp_path):
    """Oracle: the tensors before and after: those of the convolutions are the same."""
    out = tmp_path / "small.safetensors"
    shrink(digits, ["head"], out, ShrinkOptions(head="gap", epochs=1), data="digits")
    before, after = (Checkpoint.open(path).build() for path in (digits, out))
    (run,) = (vggnet.Run.open(path) for path in (tmp_path / "small-steps").glob("head-*[0-9a-f]"))
    assert run.config.optimizer.lr == vggnet.Run.open(digits.parent).config.optimizer.lr
    assert after.architecture.head == "gap"
    assert all(torch.equal(t, before.features.state_dict()[name]) for name, t in after.features.state_dict().items())


def test_the_recipe_is_repeated_at_a_quarter_of_its_rates_without_its_own_teacher(digits, tmp_path, monkeypatch):
    """Oracle: the configuration that the training gets; by the step tune it learns from labels alone."""
    configs = []

    def train_with(data, config, options, **places):
        configs.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("vggnet.compression.tuning.train_with", train_with)
    own = {"optimizer": "muon", "lr": 0.02, "kernel_lr": 0.2, "teacher": "gone.safetensors", "temperature": 2.0}
    recipe = recipe_of(Checkpoint.open(digits), "digits").override(**own)
    for step, teacher in (("tune", None), ("distill", str(digits))):
        with pytest.raises(KeyboardInterrupt):
            shrink(digits, [step], tmp_path / "small.safetensors", data="digits", recipe=recipe)
        assert configs[-1].optimizer.teacher == teacher
        assert (configs[-1].optimizer.lr, configs[-1].optimizer.kernel_lr) == (0.005, 0.05)


def test_layers_are_factorized_by_the_outputs_for_images_where_there_are_images(digits, tmp_path):
    """Oracle: the mean of the logits, which stays as it is for the views that were looked at, and else changes."""
    given, found = Checkpoint.open(digits).build(), []
    tuner = Tuner("digits", recipe_of(Checkpoint.open(digits), "digits"), tmp_path)
    images = torch.cat([batch for batch, _ in tuner.batches(4096, repeat=True)])
    assert len(images) >= 4096 > len(torch.cat([batch for batch, _ in tuner.batches(4096)]))
    for data in ("digits", None):
        result = shrink(digits, ["factorize"], tmp_path / "small.safetensors", ShrinkOptions(rank=3), data=data)
        with torch.no_grad():
            found.append((vggnet.load(result.out)(images).mean(0) - given(images).mean(0)).abs().max())
    assert found[0] < 4e-3 < 1e-2 < found[1]  # of CPUs with a matrix unit the products are in bfloat16


def test_a_network_with_frozen_blocks_is_tuned(digits, tmp_path):
    """Oracle: the validation accuracy, by the recipe without frozen blocks; the tensors of the frozen ones."""
    recipe, out = recipe_of(Checkpoint.open(digits), "digits"), tmp_path / "small.safetensors"
    options = ShrinkOptions(epochs=1)
    result = shrink(digits, ["tune"], out, options, data="digits", recipe=recipe.override(freeze=2))
    before, after = (Checkpoint.open(path).build() for path in (digits, out))
    assert result.rows[1].val_accuracy == Tuner("digits", recipe, tmp_path).accuracy(after)
    frozen = [name for name in before.state_dict() if name.startswith(("features.conv1", "features.conv2"))]
    assert frozen
    assert all(torch.equal(before.state_dict()[name], after.state_dict()[name]) for name in frozen)


def test_statistics_are_those_of_training_images(digits):
    """Oracle: the mean over batches of the first layer's mean and variance, computed from its outputs."""
    model = vggnet.load(digits)
    tuner = Tuner("digits", recipe_of(Checkpoint.open(digits), "digits"), digits.parent)
    outputs = [model.features.conv1_1(images) for images, _ in tuner.batches(300)]
    tuner.renew_statistics(model, 300)
    expected = torch.stack([y.mean((0, 2, 3)) for y in outputs]).mean(0)
    torch.testing.assert_close(model.features.bn1_1.running_mean, expected, rtol=1e-4, atol=1e-4)
    variances = torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in outputs]).mean(0)
    torch.testing.assert_close(model.features.bn1_1.running_var, variances, rtol=1e-3, atol=1e-4)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "squeeze"], "unknown step 'squeeze'. The steps are prune, fold, factorize, head, tune, "),
        (["--steps", ","], "no step was given"),
        (["--steps", "fold,fold"], "2 times"),
        (["--steps", "half,fold"], "Give fold,half"),
        (["--steps", "factorize,prune", "--rank", 4, "--to-macs", 0.5], "Give prune,factorize"),
        (["--steps", "prune"], "prune got no target"),
        (["--steps", "prune,tune", "--to-macs", 0.5, "--max-drop", 1], "prune got to_macs and max_drop"),
        (["--steps", "prune", "--to-size", "9kg"], "to_size is 9kg"),
        (["--steps", "prune,fold", "--max-drop", 1], "Give prune,distill"),
        (["--steps", "prune,tune", "--max-drop", -1], "max_drop is -1"),
        (["--steps", "prune,tune", "--max-drop", 1], "the step tune trains, which needs images"),
        (["--steps", "prune", "--to-macs", 0.5, "--criterion", "chip"], "the criterion chip needs images"),
        (["--steps", "prune", "--to-macs", 0.5, "--rounds", 2], "in rounds trains between them, which needs images"),
        (["--steps", "prune", "--to-macs", 0.5, "--rounds", 0], "rounds is 0"),
        (["--steps", "tune", "--rate", 0], "rate is 0.0; it must be above 0"),
        (["--steps", "fold", "--rate", 0.5], "rate is 0.5, but it acts only with the step tune or distill or prune"),
        (["--steps", "prune", "--to-macs", 0.5, "--multiple", 0], "multiple is 0"),
        (["--steps", "head"], "head needs the option head"),
        (["--steps", "half,tune"], "must be last. Give tune,half"),
        (["--steps", "half,quantize"], "two ways to store weights"),
        (["--steps", "fold", "--epochs", 3], "acts only with the step head or tune or distill"),
        (["--steps", "prune", "--to-size", "1kB"], "a file of 1.0 kB may remain, but"),
        (["--steps", "factorize"], "factorize needs energy"),
        (["--steps", "factorize", "--rank", 4, "--energy", 0.5], "just one"),
        (["--steps", "fold", "--to-macs", 0.5], "acts only with the step prune"),
        (["--steps", "fold", "--rank", 5], "acts only with the step factorize"),
        (["--steps", "fold,prune", "--to-macs", 0.5, "--criterion", "bn"], "Prune before fold"),
        (["--steps", "prune", "--to-macs", 0.001], "a share of 0."),
        (["--steps", "fold", "--input", -5], "input is -5; it must be at least 32"),
        (["--steps", "fold", "--input", 0], "input is 0"),
        (["--steps", "fold", "--input", 64], "takes images of 32 to 63 pixels"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(options, message, given, tmp_path, vgg):
    """Oracle: exit code 2, one line, no file."""
    code, out, err = vgg("shrink", given, *options, "-o", tmp_path / "small.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "small.safetensors").exists()


def test_the_given_file_is_not_overwritten(given):
    """Oracle: the bytes of the file."""
    before = given.read_bytes()
    with pytest.raises(ConfigError, match="write to another file"):
        shrink(given, ["fold"], given)
    with pytest.raises(ConfigError, match="safetensors"):
        shrink(given, ["fold"], given.with_suffix(".pth"))
    assert given.read_bytes() == before


def test_numbers_that_float16_has_not(given, tmp_path):
    """Oracle: the largest number of float16 is 65,504; a variance, which stays float32, may be larger."""
    model = Checkpoint.open(given).build()
    model.features.bn1_1.running_var.fill_(1e6)
    vggnet.save(model, tmp_path / "large.safetensors")
    shrink(tmp_path / "large.safetensors", ["half"], tmp_path / "small.safetensors")
    assert Checkpoint.open(tmp_path / "small.safetensors").build().features.bn1_1.running_var[0] == 1e6
    model.features.conv1_1.weight.data[0] = 1e5
    vggnet.save(model, tmp_path / "large.safetensors")
    with pytest.raises(ConfigError, match=r"conv1_1\.weight holds a number above 65,504"):
        shrink(tmp_path / "large.safetensors", ["half"], tmp_path / "small.safetensors")
