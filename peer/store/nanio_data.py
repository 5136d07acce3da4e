"""Heals what a killed nanio 0.1.7 leaves in its data directory.

nanio writes an object to `<dir>/.tmp.<uuid>` and renames it, and then its length and ETag to
`<bucket>/.nanio-meta/<key>.json.tmp` and renames that. A kill in between leaves

* `.tmp.<uuid>`: listed as an object, and never removed;
* `<key>.json.tmp`: opened exclusively, so every later write of the key answers 500;
* `<key>.json` of an object that was overwritten or removed just before: the object is then served with
  a wrong length. Without that file nanio takes the length from the object itself, which is right.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_METADATA_DIR = ".nanio-meta"
_TEMPORARY_NAME = re.compile(r"\.tmp\.[0-9a-f]{32}")


def sweep(data_dir: Path) -> list[Path]:
    """Remove from a data directory of nanio what was half-written, and return the paths.

    Nothing that nanio acknowledged is lost: it does so after both renames. No nanio may run on `data_dir`.
    """
    leftovers = [path for bucket in _buckets(data_dir) for path in _leftovers(bucket)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def _buckets(data_dir: Path) -> list[Path]:
    return [path for path in data_dir.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _leftovers(bucket: Path) -> Iterator[Path]:
    metadata_root = bucket / _METADATA_DIR
    for path in bucket.rglob("*"):
        if not path.is_file():
            continue
        if metadata_root not in path.parents:
            if _TEMPORARY_NAME.fullmatch(path.name):
                yield path
        elif path.name.endswith(".json.tmp") or not _is_truthful(path, bucket):
            yield path


def _is_truthful(metadata: Path, bucket: Path) -> bool:
    key = metadata.relative_to(bucket / _METADATA_DIR).as_posix().removesuffix(".json")
    try:
        return bool(json.loads(metadata.read_bytes())["size"] == (bucket / key).stat().st_size)
    except (ValueError, KeyError, TypeError, OSError):
        return False
