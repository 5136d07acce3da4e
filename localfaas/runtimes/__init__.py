"""Ways to run a replica; the pool knows only what `runtimes.interface` says."""
