"""A function that says what it was sent."""


def handle(event, context):
    """Return the reply to one request.

    Args:
        event: `body` (bytes), `headers`, `method`, `query` and `path`.
        context: `hostname`, the name of this replica.

    Returns:
        `statusCode`, `body` (bytes, text, or what JSON can hold) and `headers`; all of them optional.
    """
    return {"statusCode": 200, "body": {"bytes": len(event.body), "method": event.method, "path": event.path}}
