#!/usr/bin/env bash
# How much memory does the gradient function need, by batch size? Lowers its limit until it fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
    cat <<'END'
Usage: scripts/experiments/memory-pressure.sh [OPTION OF peerless experiment memory ...]

Installs peerless into .venv, starts a platform unless one runs, lowers the memory limit of the function `gradient`
step by step for several batch sizes, and ends with a table, results.jsonl and a plot in experiments/memory.
  --quick   less of all, in two minutes

Example: scripts/experiments/memory-pressure.sh --model squeezenet1_1 --batch-sizes 64,512
PEERLESS_BATCH_SIZES, PEERLESS_OUTPUT and so on stand for options; PEERLESS_GATEWAY and PEERLESS_STORE name a
platform elsewhere, of which nothing is started or ended. The function's limit is put back in any case, and what is
measured already is not measured again.
END
}

case "${1:-}" in
    -h | --help) usage && exit 0 ;;
esac

./scripts/install.sh
peerless=.venv/bin/peerless

if [ -z "${PEERLESS_GATEWAY:-}" ] && ! "$peerless" status >/dev/null 2>&1; then
    trap '"$peerless" down' EXIT
    "$peerless" up
fi
"$peerless" experiment memory "$@"
