#!/usr/bin/env bash
# From which batch size on do functions pay, one batch an invocation and packed?
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/batch-size.sh [OPTION OF peerless experiment run ...]

Measures SqueezeNet with four peers and batches of 16 to 1024, by functions and by the peers themselves.
Ends with report.html and report.md in experiments/batch-size.
  --quick   less of all, in minutes; in experiments/batch-size-quick

Example: scripts/experiments/batch-size.sh --set model=cnn --set batch-size=64,512
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" batch-size "$@"
