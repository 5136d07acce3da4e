import re

from peer import errors


def tree(kind: type[errors.PeerlessError]) -> list[type[errors.PeerlessError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


def test_drawing_of_the_tree_is_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+)  +(\d+)", errors.__doc__ or ""))
    retryable = set(re.findall(r"(\w+)  +\d+  +retryable", errors.__doc__ or ""))
    public = [kind for kind in tree(errors.PeerlessError) if kind.__module__ == errors.__name__]

    assert {kind.__name__ for kind in public} == set(drawn)
    assert {kind.__name__ for kind in public if kind.retryable} == retryable
    public.remove(errors.StopRequested)
    assert all(int(drawn[kind.__name__]) == kind.exit_code for kind in public)
