"""Training, evaluation and the metrics."""
