#!/usr/bin/env bash
# Runs a test with an empty folder of its own for temporary files, and fails where it leaves any.
#
#   tests/in_own_tmp.sh FOLDER COMMAND…
set -uo pipefail
folder=$1
shift
rm -rf "$folder" && mkdir -p "$folder" || exit
# PyTorch would keep its cache among the temporary files.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/torchinductor}
TMPDIR=$folder TEST_TMPDIR=$folder/ "$@"
code=$?
left() { find "$folder" -mindepth 1; }
# Of a rank that runs without mpirun, MPI's daemon tidies up a moment later.
for ((wait = 0; wait < 100; ++wait)); do
  [[ -n $(left) ]] || break
  sleep 0.1
done
left=$(left)
rm -rf "$folder"
[[ -z $left ]] || { echo "left behind in TMPDIR:"$'\n'"$left" >&2; exit $((code ? code : 1)); }
exit $code
