"""Image classification datasets: read from their published archives, stored once, shared by every run."""
