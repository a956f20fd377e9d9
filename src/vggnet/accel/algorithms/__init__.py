"""The convolution algorithms, one file each; `all` lists them."""
