"""The section on the published artefact: what of it is broken, what was put right, and what stays open."""

from peer.experiments.prices import published
from peer.experiments.records import CONVENTIONAL, DDP, SERVERLESS
from peer.experiments.report.blocks import Points, Row, Section, Table, Text
from peer.experiments.report.groups import Experiment

_BROKEN = (
    (
        "Functions build a fresh random model and never load the peer's weights: gradients are of another "
        "model.",
        "A request names the weights' SHA-256; a function computes at these or not at all, and peers compare "
        "what each gradient was computed at.",
    ),
    (
        "A failed upload still publishes its key.",
        "Data first, manifest second; a manifest has lengths and checksums, and only what it names is read.",
    ),
    (
        "A peer that is missing is silently skipped, and the mean divides by whoever arrived.",
        "Peers wait for each other, and a run stops with the name of who does not come.",
    ),
    (
        "Keys carry no round: stale gradients are averaged.",
        "Every key has run, generation, round and peer.",
    ),
    (
        "“Compression” saves no bytes.",
        "Codecs write what they say; bytes are counted as they leave (`docs/compression.md`).",
    ),
    (
        "Waiting is a sleep of 2 s.",
        "Readers come back after milliseconds, with a jittered back-off.",
    ),
    (
        "Bytes from elsewhere are unpickled.",
        "Tensors have a header in JSON and raw bytes; a test keeps pickle out of shipped code.",
    ),
    (
        "TLS certificates are not checked.",
        "They are; a test keeps `verify=False` out of shipped code.",
    ),
    (
        "BatchNorm's buffers are ignored.",
        "They travel with the gradient, and are averaged by samples.",
    ),
)


def artefact_section() -> Section:
    """Return what is broken in the published code, and what this project does instead."""
    return Section(
        "artefact",
        "What in the published artefact is broken, and how it was put right",
        [
            Text(f"The code beside the paper is {published().artefact}. Tests hold the right column."),
            Table(
                "What the published code does, and what peerless does instead.",
                ["published", "here"],
                [Row(list(row)) for row in _BROKEN],
            ),
        ],
    )


def honesty_section(experiment: Experiment) -> Section:
    """Return what was measured, what was simulated, and what could not be reproduced."""
    variants = {group.variant for group in experiment.groups}
    known = {SERVERLESS: "gradients by functions", CONVENTIONAL: "gradients by the peers", DDP: "PyTorch DDP"}
    measured = "; ".join(text for variant, text in known.items() if variant in variants) or "nothing"
    machine = experiment.machine
    return Section(
        "honesty",
        "Measured, simulated, not reproduced",
        [
            Points(
                [
                    f"Measured, on one machine ({machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} "
                    f"GiB): {measured}. Times, memory, CPU, bytes and accuracy are of these runs, with "
                    "their raw lines.",
                    "Computed: costs, from measured durations and dated list prices. No cloud was billed.",
                    "Simulated, and marked so: hundreds of functions at once, more peers than this machine "
                    "has cores for, a cloud's memory-to-processor rule, cold starts of a cloud.",
                    "Not reproduced: the paper's own instances, network and functions. Neither its 97.34 % "
                    "nor its 5.4 times was measured here; the section on the abstract's figures says what "
                    "gives them.",
                    "Not reproduced: its numbers by single settings. This report quotes the abstract only.",
                ]
            )
        ],
    )
