"""The tutorial's claims about VGG, checked against the network, the paper and this machine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

from torch import nn

from vggnet.benchmarking.timing import NCHW, OURS, bench_infer, cpu_environment
from vggnet.data.decoded import decoded
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.opening import open_source
from vggnet.errors import check_at_least
from vggnet.interpret.paper_tables import (
    FIXED_256,
    FIXED_384,
    JITTERED,
    TEST_TOP5_ERROR_OF_E,
    TRAINING_EPOCHS,
    TRAINING_HARDWARE,
    TRAINING_IMAGES,
    TRAINING_WEEKS,
    single_scale,
)
from vggnet.interpret.receptive_field import PAIRS, Stack
from vggnet.interpret.summary import layer_table

Verdict = Literal["true", "partly true", "wrong", "doubtful", "not checked"]
# NVIDIA, "Tesla V100 GPU architecture" (2017), table 1: single precision, SXM2. A multiply-add is two operations.
V100_MACS_PER_SECOND = 15.7e12 / 2
PASSES = 3  # of training: forward, and backward to the inputs and to the weights, each about as much work


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of the tutorial, and what is found."""

    claim: str
    verdict: Verdict
    finding: str
    source: str  # where the finding comes from
    numbers: Mapping[str, Any] = field(default_factory=dict)  # found; the units are in the names


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How long a network takes for one image here."""

    milliseconds: dict[str, float]  # way -> median
    rounds: int
    macs: int
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        """One line."""
        threads = self.environment["threads"]
        return (
            f"{self.environment['device']}, {threads} thread{'s' * (threads != 1)}, PyTorch {self.environment['torch']}"
        )


@dataclass(frozen=True, kw_only=True)
class Deviations:
    """Of the pixels of a data set, R G B in [0, 1]."""

    of_pixels: tuple[float, ...]  # of all pixels of all images
    mean_of_images: tuple[float, ...]  # of the pixels of each image (divisor n - 1), averaged over images
    images: int


@dataclass(frozen=True, kw_only=True)
class Claims:
    """All of them."""

    claims: tuple[Claim, ...]
    inference: Inference


def check_claims(inference: Inference, deviations: Deviations | None = None) -> Claims:
    """Recompute every claim.

    Args:
        inference: VGG-16 on one image of 224x224 pixels, as `measure_inference` returns it.
        deviations: of CIFAR-10's training images; without them that one claim is not checked.
    """
    claims = (
        _small_kernels(),
        _parameters_of_a_filter(),
        _eleven(),
        _fc_layers(),
        _shares(),
        _block_5(),
        _file_size(),
        _inference_time(inference),
        _errors_from_a_to_e(),
        _lrn(),
        _one_by_one(),
        _deeper(),
        _normalization(deviations),
        _training_time(inference),
    )
    return Claims(claims=claims, inference=inference)


def measure_inference(name: str = "vgg16", *, size: int = 224, width: float = 1.0, rounds: int = 7) -> Inference:
    """Time inference for one image on the CPU, by stock PyTorch and by `vggnet.accelerate`.

    Raises: ConfigError for less than one round.
    """
    check_at_least(1, rounds=rounds)
    seconds = bench_infer(name, size=size, width=width, rounds=rounds, peers=False, bfloat16=False).seconds
    ways = {"PyTorch": NCHW, "vggnet": OURS}
    return Inference(
        milliseconds={name: 1e3 * median(seconds[way]) for name, way in ways.items()},
        rounds=rounds,
        macs=layer_table(name, size=size, width=width).macs,
        environment=cpu_environment(),
    )


def measure_deviations(data: str | Path) -> Deviations:
    """Of the training images of a data set of 32x32 images (`data` as in `vgg train`).

    Raises: DataError if it cannot be opened; ImageError for an image that cannot be read.
    """
    pixels = decoded(open_source(data, "train"), Preprocess.cifar10())
    scaled = (pixels.double() / 255).flatten(2)  # (N, 3, 1024)
    return Deviations(
        of_pixels=tuple(scaled.transpose(0, 1).flatten(1).std(1, correction=0).tolist()),
        mean_of_images=tuple(scaled.std(2, correction=1).mean(0).tolist()),
        images=len(pixels),
    )


def _small_kernels() -> Claim:
    fields = {stack.label: stack.size for pair in PAIRS for stack in pair}
    weights = {stack.label: stack.weights for pair in PAIRS for stack in pair}
    holds = all(fields[one.label] == fields[many.label] and many.weights < one.weights for one, many in PAIRS)
    told = [
        f"{many.label}: {fields[many.label]}x{fields[many.label]} pixels, {many.weights} weights for each pair of "
        f"channels; {one.label}: {fields[one.label]}x{fields[one.label]} pixels, {one.weights} weights"
        for one, many in PAIRS
    ]
    return Claim(
        claim="two 3x3 convolutions have the receptive field of one 5x5, three that of one 7x7, with fewer parameters",
        verdict="true" if holds else "wrong",
        finding="; ".join(told) + ".",
        source="computed from kernel sizes",
        numbers={"pixels": fields, "weights_per_channel_pair": weights},
    )


def _parameters_of_a_filter() -> Claim:
    small, large = _filter(3), _filter(11)
    return Claim(
        claim="one 3x3 filter on 64 channels has 577 parameters, one 11x11 filter 7,745",
        verdict="true" if (small, large) == (577, 7745) else "wrong",
        finding=f"{small} and {large:,}, the bias counted.",
        source="computed from the layers",
        numbers={"parameters_3x3": small, "parameters_11x11": large},
    )


def _eleven() -> Claim:
    far = Stack(11, 1).size
    count = next(count for count in range(1, 10) if Stack(3, count).size >= far)
    two, needed, large = 2 * _filter(3), count * _filter(3), _filter(11)
    seen = Stack(3, 2).size
    return Claim(
        claim="two 3x3 filters in place of one 11x11 save parameters",
        verdict="wrong" if two >= large else "partly true" if seen < far else "true",
        finding=f"{two:,} against {large:,}, but their receptive field is {seen}x{seen} pixels, not {far}x{far}. "
        f"The same field takes {count} of them, and {needed:,} parameters.",
        source="computed from kernel sizes and from the layers",
        numbers={"count": count, "parameters": needed, "parameters_11x11": large, "pixels_of_two": seen, "pixels": far},
    )


def _fc_layers() -> Claim:
    table = layer_table("vgg16")
    found = {name: table.row(name).parameters for name in ("fc6", "fc7", "fc8")}
    convolutions = table.parameters - sum(found.values())
    millions = [number / 1e6 for number in (*found.values(), convolutions)]
    holds = [round(number) for number in millions] == [102, 102, 4, 27]
    return Claim(
        claim="VGG-16's fully connected layers have about 102 M, 102 M and 4 M parameters, its convolutions 27 M",
        verdict="true" if holds else "wrong",
        finding="{:.2f} M, {:.2f} M and {:.2f} M; the convolutions have {:.2f} M.".format(*millions),
        source="computed from the network",
        numbers={**{f"{name}_parameters": number for name, number in found.items()}, "conv_parameters": convolutions},
    )


def _shares() -> Claim:
    table = layer_table("vgg16")
    convolutions = sum(row.parameters for row in table.rows if row.kind == "conv")
    share = 100 * convolutions / table.parameters
    rest = table.parameters - convolutions
    holds = (round(convolutions / 1e6, 1), round(rest / 1e6, 1), round(share, 1)) == (14.7, 123.6, 10.6)
    return Claim(
        claim="convolutions have 14.7 M parameters (10.6 %), fully connected layers 123.6 M (89.4 %)",
        verdict="true" if holds else "wrong",
        finding=f"{convolutions:,} ({share:.1f} %) and {rest:,} ({100 - share:.1f} %).",
        source="computed from the network",
        numbers={"conv_parameters": convolutions, "fc_parameters": rest, "conv_percent": share},
    )


def _block_5() -> Claim:
    pool5 = layer_table("vgg16").row("pool5")
    kibibytes = pool5.activation_bytes / 1024
    shape = "x".join(map(str, pool5.output))
    return Claim(
        claim="the output of block 5, 512x7x7, takes about 10 MB",
        verdict="true" if 5e6 < pool5.activation_bytes < 20e6 else "wrong",
        finding=f"{shape} numbers in float32 are {kibibytes:g} KiB.",
        source="computed from the network",
        numbers={"kibibytes": kibibytes},
    )


def _file_size() -> Claim:
    size = layer_table("vgg16").weights_bytes
    return Claim(
        claim="the weights file has more than 500 MB",
        verdict="true" if size > 500e6 else "wrong",
        finding=f"{size / 1e6:.1f} MB ({size / 2**20:.1f} MiB) in float32.",
        source="computed from the network",
        numbers={"bytes": size},
    )


def _inference_time(inference: Inference) -> Claim:
    share = 100 * inference.macs / 0.1 / V100_MACS_PER_SECOND
    here = ", ".join(f"{way} {ms:,.0f} ms" for way, ms in inference.milliseconds.items())
    return Claim(
        claim="an image of 224x224 pixels takes about 100 ms on a V100",
        verdict="doubtful" if share < 10 else "true",
        finding=f"here: {here}. 100 ms would be {share:.1f} % of the V100's peak.",
        source=f"measured here, the median of {inference.rounds}; the V100's data sheet",
        numbers={"milliseconds": inference.milliseconds, "percent_of_v100_peak": share},
    )


def _errors_from_a_to_e() -> Claim:
    a, e = single_scale("A"), single_scale("E", JITTERED)
    holds = (a.top5_error, TEST_TOP5_ERROR_OF_E) == (10.4, 7.3)
    return Claim(
        claim="depth takes the top-5 error on ImageNet from 10.4 % (A) to 7.3 % (E)",
        verdict="partly true" if holds else "wrong",
        finding=f"{a.top5_error} % is of one scale and validation images, {TEST_TOP5_ERROR_OF_E} % of several scales "
        f"and test images. By one scale, E has {single_scale('E').top5_error} %, and {e.top5_error} % if trained at "
        "many sizes.",
        source="the paper's Table 3 and section 4.2",
        numbers={"a_top5_error": a.top5_error, "e_top5_error_one_scale": e.top5_error},
    )


def _lrn() -> Claim:
    without, with_it = single_scale("A"), single_scale("A-LRN")
    return Claim(
        claim="local response normalization does not help",
        verdict="true" if with_it.top1_error >= without.top1_error else "wrong",
        finding=f"top-1 error {with_it.top1_error} % with it, {without.top1_error} % without.",
        source="the paper's Table 3",
        numbers={"a_lrn_top1_error": with_it.top1_error, "a_top1_error": without.top1_error},
    )


def _one_by_one() -> Claim:
    pairs = [(single_scale("D", size), single_scale("C", size)) for size in (FIXED_256, FIXED_384, JITTERED)]
    return Claim(
        claim="3x3 convolutions beat 1x1",
        verdict=_of(d.top1_error < c.top1_error for d, c in pairs),
        finding="top-1 error of D against C: "
        + "; ".join(f"{d.top1_error} against {c.top1_error} %" for d, c in pairs)
        + ", trained at 256, 384 and 256 to 512 pixels.",
        source="the paper's Table 3",
        numbers={"d_top1_errors": [d.top1_error for d, _ in pairs], "c_top1_errors": [c.top1_error for _, c in pairs]},
    )


def _deeper() -> Claim:
    errors = {column: single_scale(column).top1_error for column in ("A", "B", "D", "E")}
    found = list(errors.values())
    return Claim(
        claim="deeper is better",
        verdict=_of(deeper < shallower for shallower, deeper in pairwise(found)),
        finding="top-1 error, trained at 256 pixels: "
        + ", ".join(f"{column} {error} %" for column, error in errors.items())
        + f"; {min(errors, key=errors.__getitem__)} has the fewest.",
        source="the paper's Table 3",
        numbers={"top1_errors": errors},
    )


def _normalization(deviations: Deviations | None) -> Claim:
    claim = "the standard deviation of CIFAR-10's pixels is (0.2023, 0.1994, 0.2010)"
    if deviations is None:
        return Claim(
            claim=claim,
            verdict="not checked",
            finding="add --data cifar10, or its folder.",
            source="would be measured on the training images",
        )
    told = (0.2023, 0.1994, 0.2010)
    of_pixels, of_images = deviations.of_pixels, deviations.mean_of_images
    return Claim(
        claim=claim,
        verdict="true" if _near(of_pixels, told) else "wrong",
        finding=f"that of all pixels is {_triple(of_pixels)}. {_triple(of_images)} is the mean of the deviations "
        "within each image.",
        source=f"measured on {deviations.images:,} training images",
        numbers={"of_pixels": of_pixels, "mean_of_images": of_images},
    )


def _training_time(inference: Inference) -> Claim:
    macs = PASSES * layer_table("vgg19").macs * TRAINING_EPOCHS * TRAINING_IMAGES
    fastest = inference.macs / (1e-3 * min(inference.milliseconds.values()))  # per second
    days_of_v100, years_here = macs / V100_MACS_PER_SECOND / 86_400, macs / fastest / 86_400 / 365.25
    weeks = f"{TRAINING_WEEKS[0]} to {TRAINING_WEEKS[1]} weeks"
    return Claim(
        claim=f"training VGG-19 takes {weeks} on one V100",
        verdict="doubtful",
        finding=f"the paper says {weeks} on {TRAINING_HARDWARE}. Its {TRAINING_EPOCHS} epochs are {macs:.2g} MACs: "
        f"{days_of_v100:.1f} days of a V100 at its peak, {years_here:,.1f} years of this machine at its rate above.",
        source="the paper's section 3.3; an estimate from MACs",
        numbers={"macs": macs, "days_of_v100_at_peak": days_of_v100, "years_here": years_here},
    )


def _filter(kernel: int) -> int:
    """Parameters of one filter on 64 channels."""
    return sum(parameter.numel() for parameter in nn.Conv2d(64, 1, kernel, device="meta").parameters())


def _of(holds: Iterable[bool]) -> Verdict:
    found = list(holds)
    return "true" if all(found) else "partly true" if any(found) else "wrong"


def _near(found: Sequence[float], told: Sequence[float]) -> bool:
    return all(abs(one - other) < 5e-4 for one, other in zip(found, told, strict=True))


def _triple(numbers: Sequence[float]) -> str:
    return f"({', '.join(f'{number:.4f}' for number in numbers)})"
