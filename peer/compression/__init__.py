"""Gradients in fewer bytes: one file a codec, pure tensor code that functions and peers share.

A codec works on chunks of 4,096 elements and knows nothing of those before and after, so a gradient that is
cut at multiples of that and compressed part by part has the bytes that it would have as a whole.
"""
