#!/usr/bin/env bash
# Feeds damaged files to the readers of safetensors, config.json and data files; a crash, a hang or any exception but a
# refusal in one line fails, and leaves its input in build/fuzz/findings.
#
#   scripts/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]    default: 10 seconds each of safetensors, config and data
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
targets=("${@:2}")
((${#targets[@]})) || targets=(safetensors config data)

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

# Seeds: the fixtures' files. What a target finds on the way is kept in corpus/ for the next run.
collect_seeds() {
  local target=$1 folder=build/fuzz/seeds/$1 file
  mkdir -p "$folder" "build/fuzz/corpus/$target" build/fuzz/findings
  for file in tests/fixtures/*/$2; do cp "$file" "$folder/$(tr / _ <<<"${file#tests/fixtures/}")"; done
}
collect_seeds safetensors 'drafter/model.safetensors'
collect_seeds config '*/config.json'
collect_seeds data 'data.h5'

for target in "${targets[@]}"; do
  echo "fuzzing $target for $seconds s"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -verbosity=0)
  [[ $target == data ]] || options+=(-dict=tests/fuzz/json.dict)
  build/fuzz/tests/fuzz/fuzz-"$target" "${options[@]}" -artifact_prefix=build/fuzz/findings/"$target"- \
    build/fuzz/corpus/"$target" build/fuzz/seeds/"$target"
done
