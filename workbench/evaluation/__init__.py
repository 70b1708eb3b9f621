"""Metrics, scoring, the evaluation of a model, and the scoring of predictions made elsewhere."""
