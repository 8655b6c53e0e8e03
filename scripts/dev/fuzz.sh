#!/usr/bin/env bash
# Feeds damaged files to the readers of safetensors, config.json and data files; a crash, a hang or any exception but a
# refusal in one line fails, and leaves its input in build/fuzz/findings.
#
#   scripts/dev/fuzz.sh [SECONDS_PER_TARGET] [TARGET...]    default: 10 seconds each of safetensors, config and data
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-10}
targets=("${@:2}")
((${#targets[@]})) || targets=(safetensors config data)

cmake --preset fuzz >/dev/null
cmake --build --preset fuzz

# Seeds: small files of the fixtures; the data target makes its files itself. What a target finds on the way is kept in
# corpus/ for the next run.
mkdir -p build/fuzz/{findings,corpus/{safetensors,config,data},seeds/{safetensors,config,data}}
for file in tests/fixtures/*/{base/config.json,drafter/config.json,drafter/model.safetensors}; do
  [[ $file == *config.json ]] && target=config || target=safetensors
  cp "$file" "build/fuzz/seeds/$target/$(tr / _ <<<"${file#tests/fixtures/}")"
done

for target in "${targets[@]}"; do
  echo "fuzzing $target for $seconds s"
  options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536)
  options+=(-verbosity=0 -print_funcs=0 -print_final_stats=1)
  [[ $target == data ]] || options+=(-dict=tests/fuzz/json.dict)
  build/fuzz/tests/fuzz/fuzz-"$target" "${options[@]}" -artifact_prefix=build/fuzz/findings/"$target"- \
    build/fuzz/corpus/"$target" build/fuzz/seeds/"$target"
done
