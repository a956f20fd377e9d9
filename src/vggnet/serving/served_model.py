"""One model as the server has it: opened, warm, with a compute thread of its own."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vggnet.accel.api import restore
from vggnet.accel.startup import startup
from vggnet.errors import NonFiniteError
from vggnet.features.extractor import FeatureExtractor, Pooling, pooled
from vggnet.interpret.explanation import Explanation, Method, explain
from vggnet.metrics import check_finite_logits
from vggnet.models.vgg import VGG
from vggnet.serving.batcher import Batcher, Work
from vggnet.serving.image_decoder import Pixels, View
from vggnet.serving.limits import Limits
from vggnet.serving.refusals import Refusal
from vggnet.serving.similar_images import SimilarImages
from vggnet.serving.telemetry import Telemetry
from vggnet.tasks import get_task
from vggnet.tasks.class_prediction import class_logits
from vggnet.tasks.task import PredictionJob
from vggnet.weights.checkpoint import frozen, open_model
from vggnet.weights.registry import FILE_NAME, PUBLISHED, find, locate

Stamp = tuple[int, int, int]


class Question(NamedTuple):
    """What is to be explained: an input of `ServedModel.explain`."""

    picture: Pixels  # (h, w, C), the shorter side as the preprocessing resizes it
    target: str | int | None
    method: Method
    layer: str | None


class ServedModel:
    """A model that is ready to answer.

    Args:
        source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        limits: see `Limits`.
        telemetry: gets the times of its work.
        index: images to search, if this model's weights made the index.

    Attributes:
        name: of the run, the file or the weights.
        classify: uint8 pixels (H, W, C), cropped -> probabilities (K,), float64.
        infer: float32 inputs (C, H, W), normalized -> the same.
        find: pictures -> what the model's task says of them, such as boxes.
        explain: `Question` -> `Explanation`.
        search: pictures (h, w, C), resized, and how many matches -> positions in the index and cosines.

    Raises:
        WeightsError: the file is damaged, or the model has no preprocessing.
        ConfigError: there is no such device.
    """

    def __init__(
        self,
        source: Path | str,
        *,
        device: str | None,
        limits: Limits,
        telemetry: Telemetry,
        index: SimilarImages | None,
    ) -> None:
        self.source, self.name = source, model_name(source)
        self.stamp = stamp_of(source)
        self.opened = open_model(source, device=device)
        _own_weights(self.opened.network)
        self.preprocess = self.opened.preprocess
        self.task = get_task(self.opened.task)
        self.index = index if index and index.fits(self.opened.network) else None
        self.classify = Work(self._classify, limits.max_batch)
        self.infer = Work(self._infer, limits.max_batch)
        self.find = Work(self._each(self._find), 1)
        self.explain = Work(self._each(self._explain), 1)
        self.search = Work(self._search, limits.max_batch)
        self.features = cache(self._features)
        self._plain = cache(lambda: restore(frozen(self.opened.network)))
        self._limits = limits
        self._warm_up()
        self.batcher = Batcher(self.name, limits, telemetry)

    @property
    def ranks_classes(self) -> bool:
        """Whether it has classes with probabilities."""
        return self.task.ranks_classes and self.opened.num_classes > 0

    @property
    def view(self) -> View:
        """What predictions need of a picture."""
        return "crop" if self.ranks_classes else "original"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the inputs."""
        return self.preprocess.in_channels, self.preprocess.crop, self.preprocess.crop

    def check_predicts(self) -> None:
        """Raises: Refusal if it has no outputs."""
        if self.opened.num_classes == 0:
            raise Refusal(400, f"model {self.name} has no head, so it predicts nothing; ask for its features.")

    def check_ranks_classes(self) -> None:
        """Raises: Refusal if it has no classes."""
        self.check_predicts()
        if not self.ranks_classes:
            raise Refusal(400, f"model {self.name} has no classes ({self.task.name}); choose a classifier.")

    def close(self) -> None:
        """End its thread once everything that it has accepted is answered."""
        self.batcher.close()

    def _warm_up(self) -> None:
        """Compile kernels and choose algorithms for all sizes of batches, so that no request waits for it."""
        startup().start()
        sizes = {min(1 << power, self._limits.max_batch) for power in range(self._limits.max_batch.bit_length() + 1)}
        for size in sorted(sizes):
            class_logits(self.opened, torch.zeros(size, *self.input_shape))

    def _classify(self, pixels: Sequence[Pixels]) -> list[Tensor | NonFiniteError]:
        return self._probabilities(self._normalized(pixels))

    def _infer(self, inputs: Sequence[Tensor]) -> list[Tensor | NonFiniteError]:
        return self._probabilities(torch.stack(list(inputs)).contiguous(memory_format=torch.channels_last))

    def _normalized(self, pixels: Sequence[Pixels]) -> Tensor:
        batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in pixels])
        return self.preprocess.normalize(batch.to(self.opened.device))

    def _probabilities(self, inputs: Tensor) -> list[Tensor | NonFiniteError]:
        """Of each input; one that the network cannot compute costs no other its answer."""
        logits = class_logits(self.opened, inputs)
        probabilities = logits.softmax(1)
        if bool(logits.isfinite().all()):  # one look at all takes less time than one at each
            return list(probabilities)
        return [_checked(row, found) for row, found in zip(logits, probabilities, strict=True)]

    def _features(self, layer: str, pooling: Pooling) -> Work:
        """Cropped pixels -> the values of a layer (C,), pooled over its places.  Raises: ConfigError."""
        extractor = FeatureExtractor(self.opened.network, layer).eval()

        @torch.no_grad()
        def compute(pixels: Sequence[Pixels]) -> list[NDArray[np.float32]]:
            maps = extractor(self._normalized(pixels))
            return list(pooled(maps[layer], pooling).cpu().numpy())

        return Work(compute, self._limits.max_batch)

    def _find(self, picture: Pixels) -> Any:
        job = PredictionJob(
            model=self.name, top=None, classifier=None, batch_size=1, progress=False, on_error="raise"
        )  # fmt: skip
        return self.task.predict(self.opened, [picture], job)[0]

    def _explain(self, question: Question) -> Explanation:
        return explain(
            self._plain(), question.picture, target=question.target, methods=[question.method], layer=question.layer
        )

    def _search(self, items: Sequence[tuple[Pixels, int]]) -> list[Any]:
        assert self.index is not None
        vectors = self.index.describe(self.opened, [picture for picture, _ in items])
        return [self.index.nearest(vector, top) for vector, (_, top) in zip(vectors, items, strict=True)]

    def _each(self, function: Callable[[Any], Any]) -> Callable[[Sequence[Any]], list[Any]]:
        return lambda items: [function(item) for item in items]


def model_name(source: Path | str) -> str:
    """What a model is called: the name of its run folder, of its file without suffix, or of published weights.

    Example:
        >>> [model_name(source) for source in ("vgg16:features", "runs/mine/weights.safetensors", "a/b.safetensors")]
        ['vgg16:features', 'mine', 'b']
    """
    if find(source) is not None or str(source) in PUBLISHED:
        return str(source)
    path = Path(source).expanduser().absolute()
    if path.name == FILE_NAME:
        return path.parent.name
    return path.stem if path.suffix == ".safetensors" else path.name


def stamp_of(source: Path | str) -> Stamp:
    """What changes with the file: time, size and number.  Raises: WeightsError, OSError if there is none."""
    status = locate(source).stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _own_weights(network: VGG) -> None:
    """Copy the weights, which lie in the mapped file: someone may overwrite it while they are used."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()


def _checked(logits: Tensor, probabilities: Tensor) -> Tensor | NonFiniteError:
    try:
        check_finite_logits(logits[None])
    except NonFiniteError as error:
        return error
    return probabilities
