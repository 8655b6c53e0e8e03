#!/usr/bin/env bash
# Every C++ and CUDA source is as clang-format leaves it.
set -euo pipefail
cd "$(dirname "$0")/.."
git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
echo "format: no difference"
