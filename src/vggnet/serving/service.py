"""What a server consists of, opened and closed together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vggnet.accel.autotuning import autotuner
from vggnet.accel.precision import PrecisionChoice, products_in
from vggnet.serving.catalog import Catalog
from vggnet.serving.image_decoder import ImageDecoder, Pixels, View
from vggnet.serving.limits import Limits
from vggnet.serving.served_model import ServedModel
from vggnet.serving.telemetry import Telemetry
from vggnet.weights.registry import locate


@dataclass(frozen=True, kw_only=True)
class Service:
    """The models, the decoders and the metrics of a server."""

    catalog: Catalog
    decoder: ImageDecoder
    telemetry: Telemetry
    limits: Limits
    api_key: str | None

    async def decode(self, model: ServedModel, images: Sequence[bytes], view: View) -> list[Pixels]:
        """The pixels of images for a model.  Raises: ImageError."""
        with self.telemetry.timed(model.name, "decode"):
            return await self.decoder.decode(images, model.preprocess, view)


@contextmanager
def open_service(
    sources: Sequence[Path | str],
    *,
    index: Path | str | None = None,
    device: str | None = None,
    precision: PrecisionChoice = "float32",
    limits: Limits | None = None,
    api_key: str | None = None,
) -> Iterator[Service]:
    """Open models and start decoders; both are closed at the end of the block.

    Args:
        sources: run folders, `.safetensors` files or names of `vgg weights list`, at least one.
        index: images for `/similar`, a file of `vgg similar index` that one of the models has made.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        precision: of the products of convolutions on a CPU, for the whole process while the service is open.
        limits: by default those of `Limits`.
        api_key: what requests must present, by default nothing.

    Raises:
        ConfigError: two models have the same name, none has made the index, or there is no such device.
        WeightsError, DataError: a file cannot be opened.
    """
    limits, telemetry = limits or Limits(), Telemetry()
    for source in sources:  # what is missing is named before processes are started
        locate(source)
    with autotuner().without_measuring(), products_in(precision):
        decoder = ImageDecoder(limits, telemetry)  # its processes start while the models are opened
        try:
            catalog = Catalog(sources, device=device, limits=limits, telemetry=telemetry, index=index)
            try:
                decoder.wait_until_started()
                yield Service(catalog=catalog, decoder=decoder, telemetry=telemetry, limits=limits, api_key=api_key)
            finally:
                catalog.close()
        finally:
            decoder.close()
