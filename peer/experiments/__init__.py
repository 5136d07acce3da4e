"""Experiments: questions asked of the ordinary functions, answered with a table, raw data and a plot."""
