"""What a decoder may run into, in a module that its process can import."""

import os
import signal


def crash(images, preprocess, view):
    """A damaged file in a format reader of C."""
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(images, preprocess, view):
    """A loop without an end."""
    while True:
        signal.pause()
