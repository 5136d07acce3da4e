"""localfaas: the OpenFaaS REST API on one machine, without containers."""

__version__ = "0.1.0"
