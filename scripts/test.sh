#!/usr/bin/env bash
# Installs what is missing, builds everything, runs every test and fuzzes the readers. What .ci/run runs.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/install_deps.sh --tests
scripts/python_env.sh
scripts/python_env.sh hf
scripts/python_env.sh tensorboard
cmake --preset ci >/dev/null
CCACHE_NOHASHDIR=1 cmake --build --preset ci
scripts/dev/check_mpich.sh
scripts/dev/fuzz.sh
ctest --preset ci
