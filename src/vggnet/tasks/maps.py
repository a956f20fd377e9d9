"""Maps: what published networks such as CRAFT and HED give for a picture. They are not trained or evaluated here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from vggnet.data.images import Picture
from vggnet.data.preprocess import Preprocess
from vggnet.data.sources.source import Source
from vggnet.errors import ConfigError
from vggnet.progress import Progress
from vggnet.report.evaluation_text import maps_text
from vggnet.tasks.map_prediction import predict_maps, write_maps
from vggnet.tasks.results import PredictedMaps
from vggnet.tasks.task import Evaluated, EvaluationJob, Loss, PredictionJob, Targets, Task
from vggnet.weights.checkpoint import OpenModel


@dataclass(frozen=True)
class Maps(Task):
    """Give maps of a picture. There is nothing to train or evaluate."""

    name: ClassVar[str] = "maps"
    output: ClassVar[str | None] = "maps"
    sums: ClassVar[tuple[str, ...]] = ()

    def read_targets(self, source: Source, preprocess: Preprocess, *, progress: Progress = False) -> Targets:
        """Raises: ConfigError."""
        _refuse("trained")

    def loss(self, outputs: Tensor, targets: Targets) -> Loss:
        """Raises: ConfigError."""
        _refuse("trained")

    def metrics(self, sums: Sequence[float], images: int) -> dict[str, float]:
        """Raises: ConfigError."""
        _refuse("trained")

    def evaluate(self, job: EvaluationJob) -> Evaluated:
        """Raises: ConfigError."""
        _refuse("evaluated")

    def predict(
        self, network: OpenModel, images: Sequence[Picture] | Picture, job: PredictionJob
    ) -> list[PredictedMaps]:
        """By `predict_maps`."""
        if job.classifier is not None or job.top is not None:
            raise ConfigError(f"{job.model} gives maps; leave out classifier (--classifier) and top (--top).")
        return predict_maps(network, images, job)

    def evaluation_text(self, result: Any) -> str:
        """Raises: ConfigError."""
        _refuse("evaluated")

    def predictions_text(self, predictions: Sequence[PredictedMaps]) -> str:
        """How much of each picture each map covers."""
        return maps_text(predictions)

    def write_predictions(
        self, images: Sequence[Picture] | Picture, predictions: Sequence[PredictedMaps], path: Path
    ) -> str:
        """Write the maps of each picture, and draw the first ones."""
        return write_maps(images, predictions, path)


def _refuse(what: str) -> NoReturn:
    raise ConfigError(f"the network gives maps, for which nothing can be {what} here; `vgg predict` draws them.")


TASK = Maps()
