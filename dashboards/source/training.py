"""*Training*: is it learning, how far is it, where does a round's time go, and what is wrong."""

from grafana_foundation_sdk.models import units

from dashboards.source import style
from dashboards.source.frame import Row, Spec, runs
from dashboards.source.links import to_functions, to_peers
from dashboards.source.panels import About, Query, bars, lines, numbers, states

_RUN = '{run=~"$run"}'
_OWN = '{run=~"$run", phase!="wait"}'

_progress = numbers(
    About(
        "Progress",
        "Rounds done of those planned. A run that converges may stop before 100 %.",
        units.PercentUnit,
        0,
    ),
    [
        Query(
            f"max by (run) (peerless_round{_RUN}) / max by (run) (peerless_rounds_planned{_RUN})",
            "{{run}}",
        )
    ],
)
_loss_now = numbers(
    About("Loss", "Training loss of the last round, over all peers' samples.", units.Short, 3),
    [Query(f"avg by (run) (peerless_loss{_RUN})", "{{run}}")],
)
_accuracy_now = numbers(
    About(
        "Accuracy",
        "On held-out samples where the run evaluates, else on the training samples of the last round.",
        units.PercentUnit,
        1,
    ),
    [
        Query(
            f"avg by (run) (peerless_validation_accuracy_ratio{_RUN}) "
            f"or avg by (run) (peerless_accuracy_ratio{_RUN})",
            "{{run}}",
        )
    ],
)
_round_seconds = numbers(
    About("Seconds a round", "Mean over the last five minutes and all peers.", units.Seconds, 2),
    [Query(f"avg by (run) (peer:round_seconds:rate5m{_RUN})", "{{run}}")],
)
_samples = numbers(
    About(
        "Samples a second", "Samples whose gradients went into the weights, all peers together.", units.Short
    ),
    [Query(f"sum by (run) (rate(peerless_samples_total{_RUN}[$__rate_interval]))", "{{run}}")],
)
_stalled = numbers(
    About(
        "Since the last round",
        "Age of the newest round of any peer. Red: the run waits for something — see *Peers and exchange* "
        "for whom.",
        units.Seconds,
        0,
    ),
    [Query(f"time() - max by (run) (peerless_last_round_timestamp_seconds{_RUN})", "{{run}}")],
    thresholds=style.steps(warning=60, bad=300),
)
_alerts_now = numbers(
    About(
        "Alerts", "Alerts that fire now, of Prometheus' own rules. Which: the lanes below.", units.Short, 0
    ),
    [Query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts")],
    thresholds=style.ANY_IS_BAD,
    course=False,
)

_phases_now = bars(
    About(
        "Where a round's time goes",
        "Share of a round by phase, mean of the peers. Much wait: one peer is slower than the others. "
        "Much exchange: the store is. Much compute: the functions are the limit.",
        units.PercentUnit,
        0,
    ),
    [Query(f"avg by (phase) (peer:phase_seconds:ratio{_RUN})", "{{phase}}")],
    colours=style.BY_PHASE,
    largest=1,
    title_size=11,
)
_memory_now = bars(
    About(
        "Which function is short of memory",
        "Working set of each function's fullest replica, as a share of its limit. Orange from 80 %, red "
        "from 90 %: raise `limits.memory` or lower the batch size.",
        units.PercentUnit,
        0,
    ),
    [Query("function:memory_working_set_ratio:max", "{{function_name}}")],
    thresholds=style.MEMORY_RATIO,
    largest=1,
    link=to_functions(),
)
_peers_now = bars(
    About(
        "Which peer is slow",
        "Seconds of a round that a peer works itself, waiting for others left out. All peers wait for the "
        "longest bar.",
        units.Seconds,
        2,
    ),
    [
        Query(
            f"sort_desc(sum by (peer) (increase(peerless_phase_seconds_total{_OWN}[$__range])) "
            f"/ sum by (peer) (increase(peerless_rounds_total{_RUN}[$__range])))",
            "peer {{peer}}",
            at_end=True,
        )
    ],
    colours=style.BY_PEER,
    link=to_peers(),
)

_loss = lines(
    About("Loss", "By round, over all peers' samples. It should fall; a jump is an alert.", units.Short),
    [
        Query(f"avg by (run) (peerless_loss{_RUN})", "{{run}} training"),
        Query(f"avg by (run) (peerless_validation_loss{_RUN})", "{{run}} held out"),
    ],
)
_accuracy = lines(
    About(
        "Accuracy",
        "Share of samples that the model gets right. A training curve far above the held-out one is "
        "overfitting.",
        units.PercentUnit,
    ),
    [
        Query(f"avg by (run) (peerless_accuracy_ratio{_RUN})", "{{run}} training"),
        Query(f"avg by (run) (peerless_validation_accuracy_ratio{_RUN})", "{{run}} held out"),
    ],
    smallest=None,
    largest=1,
)
_phases = lines(
    About(
        "A round, by phase",
        "Seconds of a round in each phase, mean of the peers, over five minutes. The total is the time of a "
        "round.",
        units.Seconds,
    ),
    [
        Query(
            f"avg by (phase) (peer:phase_seconds:ratio{_RUN} "
            f"* on (run, peer) group_left () peer:round_seconds:rate5m{_RUN})",
            "{{phase}}",
        )
    ],
    colours=style.BY_PHASE,
    stacked=True,
    largest_first=True,
)
_rounds = lines(
    About(
        "Rounds",
        "Number of the round under way, of each peer. Parallel lines are healthy; a flat one has stalled.",
        units.Short,
        0,
    ),
    [Query(f"max by (run, peer) (peerless_round{_RUN})", "{{run}} peer {{peer}}")],
    colours=style.BY_PEER,
    steps=True,
)
_bytes = lines(
    About(
        "Bytes",
        "Bytes a second of objects: put and got by the peers themselves, and put by the functions.",
        units.BytesPerSecondSI,
    ),
    [Query(f"sum by (kind) (rate(peerless_object_bytes_total{_RUN}[$__rate_interval]))", "{{kind}}")],
)
_learning_rate = lines(
    About("Learning rate", "What the schedule, or a plateau, made of it.", units.Short),
    [Query(f"max by (run) (peerless_learning_rate{_RUN})", "{{run}}")],
    steps=True,
)
_gradient_norm = lines(
    About(
        "Gradient norm",
        "Euclidean norm of the mean gradient, before the optimizer. It explodes before a loss diverges.",
        units.Short,
    ),
    [Query(f"max by (run) (peerless_gradient_norm{_RUN})", "{{run}}")],
)
_alerts = states(
    About(
        "Alerts",
        "A lane an alert that has fired in the time shown, red while it fires. docs/metrics.md says what "
        "each means.",
        units.Short,
    ),
    Query(
        # the namespace would push the name out of sight
        "max by (alertname, function, run, peer) (label_replace("
        'ALERTS{alertstate="firing"}, "function", "$1", "function_name", "(.+)[.].+"))',
        "{{alertname}} {{function}} {{run}} {{peer}}",
    ),
)

SPEC = Spec(
    uid="peerless-training",
    description="Loss and accuracy, rounds and their phases, bytes and alerts of a training run.",
    variables=[runs(several=True)],
    checkpoints=True,
    rows=[
        Row(
            4,
            [
                (4, _progress),
                (3, _loss_now),
                (4, _accuracy_now),
                (3, _round_seconds),
                (4, _samples),
                (3, _stalled),
                (3, _alerts_now),
            ],
        ),
        Row(7, [(8, _phases_now), (8, _memory_now), (8, _peers_now)]),
        Row(9, [(12, _loss), (12, _accuracy)], title="Learning"),
        Row(9, [(12, _phases), (12, _rounds)], title="Rounds"),
        Row(6, [(24, _alerts)]),
        Row(8, [(8, _bytes), (8, _learning_rate), (8, _gradient_norm)], title="Details"),
    ],
)
