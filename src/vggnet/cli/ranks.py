"""Which of several processes speaks, where torchrun has started more than one; known before PyTorch is there."""

import os


def is_alone() -> bool:
    """Whether there is one process."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def is_first() -> bool:
    """Whether this one speaks for all."""
    return is_alone() or os.environ.get("RANK", "0") == "0"
