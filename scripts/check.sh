#!/usr/bin/env bash
# What to run before a commit: formatting rules, types, and the tests that take seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

./scripts/install.sh --dev
.venv/bin/ruff check .
.venv/bin/mypy
.venv/bin/python -m pytest -q -m 'not slow' "$@"
