"""From files to batches: decoding, sources, splits, preprocessing, augmentation, loading."""
