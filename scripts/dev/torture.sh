#!/usr/bin/env bash
# Kills N runs (default 10) at random moments, resumes them on random numbers of ranks, and compares each with one that
# was left alone: the same bits, and never resumed from before the newest complete checkpoint.
#
#   scripts/dev/torture.sh [N [SEED]]
set -euo pipefail
cd "$(dirname "$0")/../.."

scripts/install_deps.sh
scripts/python_env.sh
cmake --preset release >/dev/null
cmake --build --preset release --target programs
exec .venv/bin/python tests/check_resume.py build/release/bin --torture "${1:-10}" ${2:+--seed "$2"}
