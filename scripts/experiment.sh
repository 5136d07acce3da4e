#!/usr/bin/env bash
# Runs an experiment, and makes its report once all its cells have ended: what scripts/experiments/ have in common.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: scripts/experiment.sh PRESET|MATRIX.yaml [OPTION OF peerless experiment run ...]

Installs peerless into .venv, runs the cells that have not been run, and makes report.html and report.md of them. Starts a
platform of its own, and ends it, unless PEERLESS_GATEWAY and PEERLESS_STORE, or PEERLESS_STATE_DIR, name another.
END
}

case "${1:---help}" in
    -h | --help) usage && exit 0 ;;
esac

./scripts/install.sh
status=0
folder=$(.venv/bin/peerless experiment run "$@") || status=$?
# also where some cells failed; not where somebody stopped it
[ -z "$folder" ] || .venv/bin/peerless experiment report "$folder"
exit "$status"
