"""A disk that does not take what is asked of it, in words that say which, and what to do."""

import errno
import shutil
from pathlib import Path

from localfaas.errors import LocalFaasError, StorageFailed, StorageFull

_FULL = (errno.ENOSPC, errno.EDQUOT)
_BYTES_PER_MIB = 1 << 20


def storage_full(directory: Path, what: str) -> StorageFull:
    """Return the error of a state directory without room for `what`, such as `function fn`."""
    place = directory.resolve()
    try:
        usage = shutil.disk_usage(place)
        free = f"{usage.free / _BYTES_PER_MIB:.1f} of {usage.total / _BYTES_PER_MIB:.1f} MiB are free"
    except OSError as error:
        free = f"how much is free cannot be told: {error.strerror}"
    return StorageFull(
        f"the disk of the state directory {place} has no room for {what} ({free}); nothing was changed. "
        "Remove what fills it, such as files that functions have written, and ask again",
        str(place),
    )


def storage_error(error: OSError, directory: Path) -> LocalFaasError:
    """Return what a write into a state directory has failed by.

    Args:
        error: of the write.
        directory: the state directory.
    """
    what = str(error.filename or directory)
    if error.errno in _FULL:
        return storage_full(directory, what)
    return StorageFailed(f"{what} cannot be written: {error.strerror or error}; nothing was changed")
