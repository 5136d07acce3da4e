#!/usr/bin/env bash
# How do gradient computation, exchange and waiting change with the number of peers?
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/peers.sh [OPTION OF peerless experiment run ...]

Shares the same epoch out among 1 to 12 peers, with two exchanges, by functions and by the peers themselves.
Ends with report.html and report.md in experiments/peers.
  --quick   less of all, in minutes; in experiments/peers-quick

Example: scripts/experiments/peers.sh --set peers=1,2 --set exchange=scatter_reduce
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" peers "$@"
