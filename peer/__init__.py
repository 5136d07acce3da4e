"""Peer-to-peer training of PyTorch models whose gradients are computed by OpenFaaS functions."""

__version__ = "0.1.0"
