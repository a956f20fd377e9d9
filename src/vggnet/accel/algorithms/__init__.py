"""One file per convolution algorithm."""
