#!/usr/bin/env bash
# Builds two commits and demands the same bits of both: see scripts/dev/compare_builds.py.
#
#   scripts/dev/compare_commits.sh OLD [NEW] [OPTION…]    default of NEW: HEAD; options are those of compare_builds.py
set -euo pipefail
cd "$(dirname "$0")/../.."
usage() { echo "usage: scripts/dev/compare_commits.sh OLD [NEW] [--fixture NAME…] [--quick]" >&2; exit 2; }
(($# >= 1)) || usage
old=$1 new=HEAD
shift
if (($# >= 1)) && [[ $1 != --* ]]; then new=$1 && shift; fi

builds=()
for commit in "$old" "$new"; do
  hash=$(git rev-parse --verify --quiet "$commit^{commit}") || { echo "$commit: is no commit" >&2; exit 2; }
  tree=build/compare/$hash
  [[ -d $tree ]] || git worktree add --quiet --detach "$tree" "$hash"
  cmake -S "$tree" -B "$tree/build/release" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
  cmake --build "$tree/build/release" --target programs mtp-train-emulated mtp-resume-emulated
  builds+=("$tree/build/release")
done
exec .venv/bin/python scripts/dev/compare_builds.py "${builds[@]}" "$@"
