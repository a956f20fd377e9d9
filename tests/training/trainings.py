"""A short way to train in tests."""

from vggnet.training.train import train_with


def train(data, *, out, preset=None, init_from=None, progress=False, **options):
    """`vggnet.train` by a preset, or the one that is chosen by the data, and options without groups."""
    return train_with(data, preset, options, out=out, init_from=init_from, progress=progress)
