"""Batches, replicas and memory of a run's functions: measured, planned, and adapted while it goes on."""
