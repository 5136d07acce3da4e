"""Datasets, models, gradients and optimizers: what peers and functions compute, not how they talk."""
