"""`vgg serve`: predictions, features, explanations and similar images over HTTP, with limits on everything."""
