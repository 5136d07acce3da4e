#!/usr/bin/env bash
# Trains on MNIST with four peers whose gradients are computed by functions, on this machine alone.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: scripts/quickstart.sh [--keep] [OPTION OF peerless train ...]

Installs peerless into .venv, starts the platform, stores MNIST, trains with 4 peers, and ends the platform.
  --keep   leave the platform and its live page running (`.venv/bin/peerless down` ends them)

Example: scripts/quickstart.sh --keep --rounds 200
PEERLESS_STATE_DIR, PEERLESS_RUNS_DIR and so on say where it keeps its things.
END
}

keep=""
case "${1:-}" in
    -h | --help) usage && exit 0 ;;
    --keep) keep=1 && shift ;;
esac

./scripts/install.sh
peerless=.venv/bin/peerless

# a platform that ran before goes on running afterwards
if ! "$peerless" status >/dev/null 2>&1 && [ -z "$keep" ]; then
    trap '"$peerless" down' EXIT
fi

# the page shows the run; should it not start, one line says so, and the training goes on
"$peerless" up --dashboard
"$peerless" data push mnist
"$peerless" train --peers 4 --dataset mnist "$@"
if [ -n "$keep" ]; then
    echo "The platform and its page go on running; $peerless down ends them." >&2
else
    echo "To go on: . .venv/bin/activate && peerless up" >&2
fi
