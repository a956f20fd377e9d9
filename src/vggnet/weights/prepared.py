"""What a network with weights says of its images."""

from vggnet.data.preprocess import Preprocess
from vggnet.errors import WeightsError
from vggnet.models.vgg import VGG


def preprocess_of(network: VGG) -> Preprocess:
    """How its images are prepared.  Raises: WeightsError if it does not say."""
    if network.preprocess is None:
        raise WeightsError(
            "the model does not say how its images are prepared (its `preprocess` is None). Set "
            "model.preprocess = vggnet.Preprocess(...), and save it again."
        )
    return network.preprocess
