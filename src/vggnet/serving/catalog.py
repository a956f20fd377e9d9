"""The models of a server by their names; a model whose file has changed is replaced without a gap."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from vggnet.errors import ConfigError, VGGError
from vggnet.serving.limits import Limits
from vggnet.serving.refusals import Refusal
from vggnet.serving.served_model import ServedModel, Stamp, stamp_of
from vggnet.serving.similar_images import SimilarImages
from vggnet.serving.telemetry import Telemetry

log = logging.getLogger(__name__)
LOOK_AFTER = 1.0  # seconds between two looks at the files


class Catalog:
    """Opens the models. All arguments as for `vggnet.serving.app.create_app`.

    Raises:
        ConfigError: two models have one name, or no model has made the index.
        WeightsError, DataError: a file cannot be opened.
    """

    def __init__(
        self,
        sources: Sequence[Path | str],
        *,
        device: str | None,
        limits: Limits,
        telemetry: Telemetry,
        index: Path | str | None,
    ) -> None:
        self._device, self._limits, self._telemetry = device, limits, telemetry
        self._index = None if index is None else SimilarImages(index)
        self._models: dict[str, ServedModel] = {}
        self._refused: dict[str, Stamp] = {}  # of changed files that could not be opened
        for source in sources:
            model = self._open(source)
            if model.name in self._models:
                other = self._models[model.name].source
                raise ConfigError(f"{other} and {source} are both called {model.name}; rename a file or folder.")
            self._models[model.name] = model
        if self._index and not any(model.index for model in self._models.values()):
            weights = self._index.weights
            raise ConfigError(f"{index} was made by {weights}, which is not served; add it: vgg serve {weights}")

    def get(self, name: str | None) -> ServedModel:
        """The model of this name, by default the first one.  Raises: Refusal if there is none."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise Refusal(404, f"there is no model {name!r}; the models are {', '.join(self._models)}.")
        return self._models[name]

    def all(self) -> list[ServedModel]:
        """The models in the order given."""
        return list(self._models.values())

    def searcher(self) -> ServedModel:
        """The model that made the index.  Raises: Refusal if there is no index."""
        found = next((model for model in self._models.values() if model.index), None)
        if found is None:
            raise Refusal(404, "there is no index of images; start the server with --index.")
        return found

    async def watch(self) -> None:
        """Reload models whose files change, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_AFTER)
            await self.reload_changed()

    async def reload_changed(self) -> None:
        """Open the files that have changed. Until a new model is warm, the old one answers; it ends what it began."""
        for model in self.all():
            try:
                stamp = await asyncio.to_thread(stamp_of, model.source)
            except (VGGError, OSError):
                continue  # it is being replaced, or gone: the model in memory stays
            if stamp in (model.stamp, self._refused.get(model.name)):
                continue
            try:
                fresh = await asyncio.to_thread(self._open, model.source)
            except (VGGError, OSError) as error:
                self._refused[model.name] = stamp
                self._telemetry.reloads.labels(model.name, "failed").inc()
                log.warning("model %s has changed and cannot be opened; the old one stays: %s", model.name, error)
                continue
            self._models[model.name] = fresh
            model.close()
            self._telemetry.reloads.labels(model.name, "done").inc()
            log.info("model %s has changed and was reloaded", model.name)

    def close(self) -> None:
        """End all threads once everything that was accepted is answered."""
        for model in self._models.values():
            model.close()

    def _open(self, source: Path | str) -> ServedModel:
        return ServedModel(
            source, device=self._device, limits=self._limits, telemetry=self._telemetry, index=self._index
        )
