"""Where labeled images come from: one file per storage format."""
