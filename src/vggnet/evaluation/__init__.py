"""What a trained network is worth: testing and predicting."""
