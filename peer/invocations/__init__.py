"""Requests to functions: many at once, tried again, hedged, abandoned, or through the gateway's queue."""
