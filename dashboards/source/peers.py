"""*Peers and exchange*: who is slow, who waits, and what goes between them."""

from grafana_foundation_sdk.models import units

from dashboards.source import style
from dashboards.source.frame import Row, Spec, peers, runs
from dashboards.source.panels import About, Query, bars, grew, lines, marks, numbers

_P = '{run=~"$run", peer=~"$peer"}'
_OWN = '{run=~"$run", peer=~"$peer", phase!="wait"}'
_BY_PEERS = '{run=~"$run", peer=~"$peer", kind!="function_put"}'
_LATE = '{run=~"$run", peer=~"$peer", staleness!="0"}'
_NAME = "peer {{peer}}"

_own_seconds = (
    f"sum by (peer) (increase(peerless_phase_seconds_total{_OWN}[$__range])) "
    f"/ sum by (peer) (increase(peerless_rounds_total{_P}[$__range]))"
)
_own_now = bars(
    About(
        "Own work a round",
        "Seconds of a round in which a peer does not wait for others. The longest bar is the peer that all "
        "wait for.",
        units.Seconds,
        2,
    ),
    [Query(f"sort_desc({_own_seconds})", _NAME, at_end=True)],
    colours=style.BY_PEER,
)
_straggler_now = bars(
    About(
        "Own work, of the median peer's",
        "1 is as fast as the peer in the middle. Orange from 1.2, red from 1.5: a straggler, whose machine "
        "or functions are slower than the others'.",
        units.Short,
        2,
    ),
    [Query(f"sort_desc(({_own_seconds}) / scalar(quantile(0.5, {_own_seconds})))", _NAME, at_end=True)],
    thresholds=style.STRAGGLING,
    largest=2,
)
_waiting_now = bars(
    About(
        "Waiting for others, of a round",
        "Share of a round in which a peer waits for what others have not published yet. The slow peer waits "
        "least.",
        units.PercentUnit,
        0,
    ),
    [Query('avg by (peer) (peer:phase_seconds:ratio{run=~"$run", peer=~"$peer", phase="wait"})', _NAME)],
    colours=style.BY_PEER,
    largest=1,
)
_peers_now = numbers(
    About("Peers", "Peers whose metrics are read now.", units.Short, 0),
    [Query(f"count(count by (run, peer) (peerless_build_info{_P}))", "peers")],
)
_bytes_a_round = numbers(
    About(
        "Bytes a round",
        "Put and got by one peer in one round, mean of the peers. With all_gather they grow with the number "
        "of peers; with scatter_reduce and in_function they stay below three gradients.",
        units.BytesSI,
        1,
    ),
    [
        Query(
            f"sum(increase(peerless_object_bytes_total{_BY_PEERS}[$__range])) "
            f"/ sum(increase(peerless_rounds_total{_P}[$__range]))",
            "bytes",
            at_end=True,
        )
    ],
)
_compression = numbers(
    About(
        "Compression",
        "Bytes of a gradient over bytes sent for it: 1 is uncompressed, 4 a quarter of the bytes.",
        units.Short,
        1,
    ),
    [Query(f"avg(peerless_compression_ratio{_P})", "ratio")],
)
_late_now = numbers(
    About(
        "Late gradients",
        "Share of the others' gradients that came a round late or more, and counted less. 0 with peers in "
        "step; with --staleness, much of it means that some peer is always behind.",
        units.PercentUnit,
        0,
    ),
    [
        Query(
            f"(sum(increase(peerless_gradients_applied_total{_LATE}[$__range])) or vector(0)) "
            f"/ clamp_min(sum(increase(peerless_gradients_applied_total{_P}[$__range])), 1)",
            "late",
            at_end=True,
        )
    ],
)
_retries_now = numbers(
    About("Retries", "Attempts that were repeated in the time shown; the run survives them.", units.Short, 0),
    [Query(f"sum(increase(peerless_retries_total{_P}[$__range])) or vector(0)", "retries", at_end=True)],
    thresholds=[*style.always(style.GOOD), *style.steps(warning=1, bad=50)[1:]],
)

_rounds = lines(
    About("Seconds a round", "Mean over five minutes. Of peers in step all are alike.", units.Seconds),
    [Query(f"max by (peer) (peer:round_seconds:rate5m{_P})", _NAME)],
    colours=style.BY_PEER,
)
_phases_now = bars(
    About(
        "Where a round's time goes, by peer",
        "The longest phases of any peer, in seconds of a round; waiting is left out. What one peer alone "
        "has on top is what makes it slow: publish and exchange are its way to the store, compute its part "
        "of the replicas, average and update its processor.",
        units.Seconds,
        2,
    ),
    [
        Query(
            "sort_desc(topk(8, "
            f"sum by (peer, phase) (increase(peerless_phase_seconds_total{_OWN}[$__range])) "
            f"/ on (peer) group_left () sum by (peer) (increase(peerless_rounds_total{_P}[$__range]))))",
            "{{phase}}, peer {{peer}}",
            at_end=True,
        )
    ],
    colours=style.BY_PHASE,
    title_size=11,
)
_own = lines(
    About(
        "Own work a round",
        "Seconds of a round in which a peer does not wait for others, over five minutes.",
        units.Seconds,
    ),
    [Query(f"max by (peer) (peer:own_seconds:rate5m{_P})", _NAME)],
    colours=style.BY_PEER,
    largest_first=True,
)
_waiting = lines(
    About(
        "Waiting for others",
        "Share of a round in which a peer waits for what others have not published yet. One line far below "
        "the others is a slow peer; if none is, they hold each other up in turn.",
        units.PercentUnit,
    ),
    [Query('avg by (peer) (peer:phase_seconds:ratio{run=~"$run", peer=~"$peer", phase="wait"})', _NAME)],
    colours=style.BY_PEER,
    largest=1,
)
_last_round = lines(
    About(
        "Since the last round",
        "Age of each peer's newest round. A line that climbs alone is a peer that hangs; all together, a "
        "run that does.",
        units.Seconds,
    ),
    [Query(f"time() - max by (peer) (peerless_last_round_timestamp_seconds{_P})", _NAME)],
    colours=style.BY_PEER,
    largest_first=True,
)
_bytes = lines(
    About(
        "Bytes, by peer",
        "Bytes a second put into and got from the store by the peer itself. What differs between peers is "
        "who publishes the weights and writes checkpoints, in turn.",
        units.BytesPerSecondSI,
    ),
    [Query(f"sum by (peer) (rate(peerless_object_bytes_total{_BY_PEERS}[$__rate_interval]))", _NAME)],
    colours=style.BY_PEER,
)
_function_phases = bars(
    About(
        "Where an invocation's time goes",
        "Seconds of one invocation by what the function does. Much fetch or upload: the store is the limit, "
        "or batches are too small. Much load_model: cold starts.",
        units.Seconds,
        2,
    ),
    [
        Query(
            f"sort_desc(sum by (phase) (increase(peerless_function_seconds_total{_P}[$__range])) "
            f"/ ignoring (phase) group_left () sum(increase(peerless_invocations_total{_P}[$__range])))",
            "{{phase}}",
            at_end=True,
        )
    ],
    colours=style.BY_PHASE,
)
_retries = marks(
    About(
        "Retries",
        "Attempts that were repeated, by the error that made it so. OutOfMemory: see *Functions*.",
        units.Short,
        0,
    ),
    [Query(grew(f"peerless_retries_total{_P}", "reason"), "{{reason}}")],
    colours=[("/Memory/", style.BAD)],
)
_invocations = lines(
    About(
        "Invocations and cold starts",
        "Valid replies a second as the peers count them, and how many of them were a replica's first.",
        units.RequestsPerSecond,
    ),
    [
        Query(f"sum by (peer) (rate(peerless_invocations_total{_P}[$__rate_interval]))", _NAME),
        Query(f"sum(rate(peerless_cold_starts_total{_P}[$__rate_interval]))", "cold starts"),
    ],
    colours=style.BY_PEER,
)

SPEC = Spec(
    uid="peerless-peers",
    description="Which peer is slow, who waits for whom, and what the exchange costs.",
    variables=[runs(several=False), peers()],
    rows=[
        Row(7, [(8, _own_now), (8, _straggler_now), (8, _waiting_now)]),
        Row(
            4,
            [(4, _peers_now), (5, _bytes_a_round), (5, _compression), (5, _late_now), (5, _retries_now)],
        ),
        Row(9, [(8, _phases_now), (8, _own), (8, _waiting)], title="Peers"),
        Row(9, [(6, _rounds), (6, _last_round), (6, _bytes), (6, _invocations)]),
        Row(9, [(12, _function_phases), (12, _retries)], title="Invocations"),
    ],
)
