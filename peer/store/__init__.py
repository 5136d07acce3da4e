"""The object store: keys, the tensor wire format, and transfers to and from any S3 endpoint."""
