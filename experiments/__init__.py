"""Experiments with committed results; see README.md. Run one from the repository: python -m experiments.depth.run."""

import os

# As `vgg` does: PyTorch's threads sleep while they wait for each other. It must be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
