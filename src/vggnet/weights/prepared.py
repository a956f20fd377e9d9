"""The preprocessing of a model, by its old name."""

from vggnet.data.preprocess import Preprocess

preprocess_of = Preprocess.of
