#!/usr/bin/env bash
# What does each codec save in bytes and seconds, and what does it cost in accuracy?
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/compression.sh [OPTION OF peerless experiment run ...]

Trains 120 rounds on MNIST with seven codecs, by functions and by the peers themselves, three seeds each.
Ends with report.html and report.md in experiments/compression.
  --quick   less of all, in minutes; in experiments/compression-quick

Example: scripts/experiments/compression.sh --set compression=none,qsgd:4 --set variant=conventional
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" compression "$@"
