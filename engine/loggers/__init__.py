"""The processes that pass a run's events on to TensorBoard, Weights & Biases and trackio. None loads torch."""
