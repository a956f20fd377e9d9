"""VGG as the feature network of other work: taps, perceptual distances, style transfer, similarity."""
