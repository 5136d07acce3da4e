"""The image map: what `localfaas build` made of an image name, for a runtime without images."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from localfaas.config import write_atomically


@dataclass(frozen=True)
class ImageEntry:
    """How the process runtime starts an image.

    `command` is `fprocess`, split into words. A command `python SCRIPT …` with modules to preload starts by
    fork from a warm parent, any other by exec.
    """

    image: str
    directory: str
    command: tuple[str, ...]
    environment: dict[str, str]
    preload: tuple[str, ...]


def _path_of(images: Path, image: str) -> Path:
    return images / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.json"


def save_image(images: Path, entry: ImageEntry) -> None:
    """Leave `entry` in the map, instead of an older one of the same image.

    Raises:
        OSError: the map is as it was.
    """
    write_atomically(_path_of(images, entry.image), json.dumps(asdict(entry), indent=2) + "\n")


def find_image(images: Path, image: str) -> ImageEntry | None:
    """Return the entry of an image name, or None where it was never built."""
    try:
        fields = json.loads(_path_of(images, image).read_text())
    except FileNotFoundError:
        return None
    return ImageEntry(
        image=fields["image"],
        directory=fields["directory"],
        command=tuple(fields["command"]),
        environment=fields["environment"],
        preload=tuple(fields["preload"]),
    )
