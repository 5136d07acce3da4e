"""Every object key is built here, and nowhere else; PROTOCOL.md lists them with their writers."""

import re

from peer.errors import InvalidName

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def checked(name: str, what: str) -> str:
    """Return `name` unchanged if it may be part of a key.

    Raises:
        InvalidName: it is empty, longer than 64 characters, `.` or `..`, or has a character outside
            `[A-Za-z0-9._-]`; nothing was sent anywhere.
    """
    if not _NAME.fullmatch(name) or set(name) == {"."}:
        raise InvalidName(
            f"{what} {name[:80]!r} is not usable as an object name: "
            "take 1 to 64 letters, digits, dots, dashes or underscores"
        )
    return name


def dataset(dataset_id: str) -> str:
    """Return the prefix of everything that belongs to one dataset, ending with a slash."""
    return f"datasets/{checked(dataset_id, 'dataset')}/"


def dataset_manifest(dataset_id: str) -> str:
    """Return the key of a dataset's manifest, written last."""
    return f"{dataset(dataset_id)}manifest.json"


def dataset_part(dataset_id: str, split: str, order: str, part: int) -> str:
    """Return the key of one part of a split in one stored order."""
    return f"{dataset(dataset_id)}{checked(split, 'split')}/{checked(order, 'order')}/{part:06d}"


def profile(identity: str) -> str:
    """Return the key of the sizes that fitted a model and batch size last; written by rank 0."""
    return f"profiles/{checked(identity, 'profile')}.json"


def run(run_name: str) -> str:
    """Return the prefix of everything that belongs to one run, ending with a slash."""
    return f"runs/{checked(run_name, 'run')}/"


def run_config(run_name: str) -> str:
    """Return the key of a run's frozen configuration, written by rank 0."""
    return f"{run(run_name)}config.json"


def run_summary(run_name: str) -> str:
    """Return the key of a finished run's summary, written by rank 0."""
    return f"{run(run_name)}summary.json"


def probe(run_name: str, number: int) -> str:
    """Return the key of an object that a measurement puts, reads and removes."""
    return f"{run(run_name)}probes/{number}"


def reply(run_name: str, call: str) -> str:
    """Return the key under which an asynchronous call's function puts its reply."""
    return f"{replies(run_name)}{checked(call, 'call')}"


def replies(run_name: str) -> str:
    """Return the prefix of all such replies of a run, ending with a slash."""
    return f"{run(run_name)}replies/"


def weights(run_name: str, sha256: str) -> str:
    """Return the key of content-addressed weights."""
    return f"{run(run_name)}weights/{checked(sha256, 'weights')}"


def all_weights(run_name: str) -> str:
    """Return the prefix of all weights of a run, ending with a slash."""
    return f"{run(run_name)}weights/"


def generations(run_name: str) -> str:
    """Return what the keys of all generations' rounds begin with, and no others."""
    return f"{run(run_name)}g"


def generation(run_name: str, generation_number: int) -> str:
    """Return the prefix of one generation's rounds, ending with a slash."""
    return f"{run(run_name)}g{generation_number}/"


def round_prefix(run_name: str, generation: int, round_number: int) -> str:
    """Return the prefix of one round's objects, ending with a slash."""
    return f"{run(run_name)}g{generation}/rounds/{round_number}/"


def gradient(
    run_name: str, generation: int, round_number: int, peer: int, invocation: int, attempt: str
) -> str:
    """Return the key under which one attempt of one invocation stores its gradient."""
    prefix = round_prefix(run_name, generation, round_number)
    return f"{prefix}gradients/{peer}/{invocation}-{checked(attempt, 'attempt')}"


def exchange(run_name: str, generation: int, round_number: int, peer: int, part: int) -> str:
    """Return the key of one part of a peer's gradient."""
    return f"{round_prefix(run_name, generation, round_number)}exchange/{peer}/{part}"


def reduced(run_name: str, generation: int, round_number: int, part: int, attempt: str) -> str:
    """Return the key of one part of a round's mean, which peer `part` reduced or had reduced."""
    return f"{round_prefix(run_name, generation, round_number)}reduced/{part}-{checked(attempt, 'attempt')}"


def reduced_manifest(run_name: str, generation: int, round_number: int, part: int) -> str:
    """Return the key under which peer `part` says where its part of a round's mean is."""
    return f"{round_prefix(run_name, generation, round_number)}reduced/{part}.json"


def peer_manifest(run_name: str, generation: int, round_number: int, peer: int) -> str:
    """Return the key of a peer's manifest of one round."""
    return f"{round_prefix(run_name, generation, round_number)}{peer}.json"


def meeting(run_name: str, generation: int, round_number: int, peer: int, part: int) -> str:
    """Return the key of one part of a peer's state after a round, when peers that were apart meet."""
    return f"{round_prefix(run_name, generation, round_number)}meeting/{peer}/{part}"


def meeting_manifest(run_name: str, generation: int, round_number: int, peer: int) -> str:
    """Return the key under which a peer says where its state after a round is."""
    return f"{round_prefix(run_name, generation, round_number)}meeting/{peer}.json"


def checkpoint(run_name: str, round_number: int, part: str) -> str:
    """Return the key of one object of a checkpoint: `shared` or `manifest.json`."""
    return f"{run(run_name)}checkpoints/{round_number}/{checked(part, 'checkpoint part')}"


def residual(run_name: str, round_number: int, peer: int) -> str:
    """Return the key of one peer's part of a checkpoint: what its codec has left out so far."""
    return checkpoint(run_name, round_number, str(peer))


def residual_manifest(run_name: str, round_number: int, peer: int) -> str:
    """Return the key under which a peer says that its part of a checkpoint is there."""
    return checkpoint(run_name, round_number, f"{peer}.json")


def checkpoints(run_name: str) -> str:
    """Return the prefix of a run's checkpoints, ending with a slash."""
    return f"{run(run_name)}checkpoints/"


def member(run_name: str, peer: int) -> str:
    """Return the key of a peer's member object."""
    return f"{run(run_name)}members/{peer}.json"


def round_of_checkpoint(key: str) -> int | None:
    """Return the round of a checkpoint's manifest key, None for any other key."""
    match = re.fullmatch(r"runs/[^/]+/checkpoints/(\d+)/manifest\.json", key)
    return int(match[1]) if match else None


def datasets() -> str:
    """Return the prefix of all datasets, ending with a slash."""
    return "datasets/"


def is_dataset_manifest(key: str) -> bool:
    """Return whether this is the key of a dataset's manifest."""
    return re.fullmatch(r"datasets/[^/]+/manifest\.json", key) is not None
