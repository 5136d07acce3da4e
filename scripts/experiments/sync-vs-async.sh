#!/usr/bin/env bash
# What is saved where peers need not wait for each other, and what does it cost in accuracy?
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/sync-vs-async.sh [OPTION OF peerless experiment run ...]

Trains 120 rounds on MNIST with peers in step, and one, two and four rounds apart at most, three seeds each.
Ends with report.html and report.md in experiments/sync-vs-async.
  --quick   less of all, in minutes; in experiments/sync-vs-async-quick

Example: scripts/experiments/sync-vs-async.sh --set staleness=0,8 --set variant=conventional
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" sync-vs-async "$@"
