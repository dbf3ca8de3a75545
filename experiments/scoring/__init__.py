"""Models on images: scores, thresholds, predictions and the images worth a look."""
