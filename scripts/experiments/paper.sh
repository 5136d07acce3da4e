#!/usr/bin/env bash
# What do serverless functions change in P2P training? The paper's setting, next to what it published.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/experiments/paper.sh [OPTION OF peerless experiment run ...]

Runs the setting of arXiv 2309.14139 here: MNIST, SqueezeNet, MobileNetV3 and VGG11, batches of 64 to 1024, 4 and 12 peers, one
step an epoch; by functions, by the peers themselves, and by plain DDP. Takes some hours, and 24 GB of memory.
Ends with report.html and report.md in experiments/paper.
  --quick   less of all, in minutes; in experiments/paper-quick

Example: scripts/experiments/paper.sh --set peers=4 --set model=squeezenet1_1
--set NAME=VALUE changes the matrix. The same command goes on where it was stopped or killed. PEERLESS_SET="peers=2,4
rounds=5", PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a platform elsewhere, of
which nothing is started or ended: runs are removed from its store as they end, and its functions have the replicas and
limits afterwards that they had before.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

exec "$(dirname "$0")/../experiment.sh" paper "$@"
