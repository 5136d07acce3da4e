"""The image map: how an image name is started by a runtime without images.

`localfaas build` fills it from a stack's templates, `localfaas image add` with any program on this machine.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from localfaas.config import write_atomically
from localfaas.errors import ConfigurationError

_DEFAULT_REGISTRIES = ("docker.io/library/", "docker.io/", "library/")
_DEFAULT_TAG = "latest"


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


def canonical_image(image: str) -> str:
    """Return the one name of an image that may be written in several ways, as container engines read them.

    `docker.io/` is left out, and `:latest` is added where there is neither tag nor digest.
    """
    for prefix in _DEFAULT_REGISTRIES:
        if image.startswith(prefix):
            image = image.removeprefix(prefix)
            break
    has_tag = ":" in image.rpartition("/")[2] or "@" in image
    return image if has_tag else f"{image}:{_DEFAULT_TAG}"


def _path_of(images: Path, image: str) -> Path:
    return images / f"{hashlib.sha256(image.encode()).hexdigest()[:32]}.json"


def _paths_of(images: Path, image: str) -> tuple[Path, Path]:
    """Return where the entry of an image is, and where earlier releases put it."""
    return _path_of(images, canonical_image(image)), _path_of(images, image)


def save_image(images: Path, entry: ImageEntry) -> None:
    """Leave `entry` in the map, instead of an older one of the same image.

    Raises:
        OSError: the map is as it was.
    """
    path, _ = _paths_of(images, entry.image)
    write_atomically(path, json.dumps(asdict(entry), indent=2) + "\n")


def find_image(images: Path, image: str) -> ImageEntry | None:
    """Return the entry of an image name, or None where there is none.

    Raises:
        ConfigurationError: its file is not what `save_image` has written.
    """
    for path in _paths_of(images, image):
        if path.exists():
            return _read(path)
    return None


def list_images(images: Path) -> list[ImageEntry]:
    """Return every entry, by image name.

    Raises:
        ConfigurationError: a file is not what `save_image` has written.
    """
    return sorted(map(_read, images.glob("*.json")), key=lambda entry: entry.image)


def remove_image(images: Path, image: str) -> bool:
    """Forget an image; return whether it was there. What runs from it goes on until the next start."""
    found = [path for path in set(_paths_of(images, image)) if path.exists()]
    for path in found:
        path.unlink()
    return bool(found)


def _read(path: Path) -> ImageEntry:
    try:
        fields = json.loads(path.read_text())
        return ImageEntry(
            image=fields["image"],
            directory=fields["directory"],
            command=tuple(fields["command"]),
            environment=fields["environment"],
            preload=tuple(fields["preload"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is damaged; remove it and build or add its image again") from error
