#!/usr/bin/env bash
# Runs every test that this machine can run, having installed what they need. More arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
    -h | --help) echo "Usage: scripts/test.sh [--without-minio] [PYTEST ARGUMENT ...]" && exit 0 ;;
    --without-minio)
        echo "without MinIO: the store's contract runs against nanio only, and no run trains on MinIO" >&2
        shift
        ;;
    *) ./scripts/install-minio.sh ;;
esac

./scripts/install.sh --dev
exec .venv/bin/python -m pytest "$@"
