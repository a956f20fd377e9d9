"""How fast networks train and answer on this machine, beside stock PyTorch and other libraries."""
