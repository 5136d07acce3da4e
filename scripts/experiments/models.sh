#!/usr/bin/env bash
# How do functions, peers that compute themselves and plain DDP compare by model?
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/models.sh [OPTION OF peerless experiment run ...]

Trains every built-in model for some rounds, by all three. VGG11 takes 12 GB of memory.
Ends with report.html and report.md in experiments/models.
  --quick   less of all, in minutes; in experiments/models-quick

Example: scripts/experiments/models.sh --set model=cnn,resnet18
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" models "$@"
