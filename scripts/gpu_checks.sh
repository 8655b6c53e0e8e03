#!/usr/bin/env bash
# What waits for a GPU in docs/gpu.md, on a machine with one: builds, tests, sanitizers, equal bits, and every timing. Goes
# on after a failure; each check has a log in RESULTS, and a table at the end says how it went. Takes hours, most of them
# for the sanitizers.
#
#   scripts/gpu_checks.sh RESULTS
#
# REFERENCE_PYTHON: a Python with requirements-hf.txt and a PyTorch for this GPU (default: .venv-hf/bin/python).
# LAYER_GROUPS: of E4B's base, six layers each, that fit the GPU with their optimizer (default: 1).
set -uo pipefail
results=$(realpath -m "${1:?usage: scripts/gpu_checks.sh RESULTS}")
cd "$(dirname "$0")/.." || exit
if ! gpus=$(nvidia-smi -L 2>&1) || [[ $gpus != GPU* ]]; then
  echo "gpu_checks: no NVIDIA GPU that nvidia-smi lists; run it on a machine with one" >&2
  exit 1
fi
mkdir -p "$results"
bin=build/cuda/bin
tests=build/cuda/tests
groups=${LAYER_GROUPS:-1}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

table=()
failures=0
# check NAME COMMAND…
check() {
  local name=$1 outcome=passed begin=$SECONDS
  shift
  echo "== $name"
  "$@" &>"$results/$name.log" || outcome=FAILED
  [[ $outcome == passed ]] || failures=$((failures + 1))
  table+=("$(printf '%-24s %-7s %6d s  %s' "$name" "$outcome" $((SECONDS - begin)) "$results/$name.log")")
}

build() { cmake --preset cuda && cmake --build --preset cuda; }

sanitize() {
  compute-sanitizer --tool "$1" --error-exitcode 1 "$tests/test-ops" --gtest_filter='*cuda*:-*MatmulTest*'
}

# Three steps of a fixture on so many ranks, and what they export: train RANKS RUN [SETTING…]
train() {
  local ranks=$1 run=$results/runs/$2 fixture=tests/fixtures/e4b
  shift 2
  rm -rf "$run" &&
    mpirun --oversubscribe --bind-to none -n "$ranks" "$bin/mtp-train" --config "$fixture/settings.cfg" \
      --model.base "$fixture/base" --model.drafter "$fixture/drafter" --data.train "$fixture/data.h5" \
      --train.micro_batch 1 --run.device cuda --run.dir "$run" "$@" &&
    "$bin/mtp-export-hf" --from "$run" --out "$run/hf"
}

same_as_first() { # RUN
  local first=$results/runs/first/hf file
  find "$first" -name '*.safetensors' | grep -q . || return 1
  while read -r file; do
    cmp "$file" "$results/runs/$1/hf/${file#"$first/"}" || return 1
  done < <(find "$first" -type f)
}

again() { train 1 again && same_as_first again; }

resumed() {
  train 1 resumed --train.max_steps 2 &&
    rm -rf "$results/runs/resumed/hf" &&
    "$bin/mtp-resume" --from "$results/runs/resumed" --train.max_steps 3 &&
    "$bin/mtp-export-hf" --from "$results/runs/resumed" --out "$results/runs/resumed/hf" &&
    same_as_first resumed
}

shared() { train "$1" "ranks-$1" --dist.transport staged && same_as_first "ranks-$1"; } # RANKS

bench() { # NAME OPTION…
  local name=$1
  shift
  "$bin/mtp-bench-$name" --device cuda --benchmark_out="$results/$name.json" "$@"
}

decode() {
  local pair=$results/pair
  [[ -d $pair ]] || "$bin/mtp-make-pair" --preset e4b --out "$pair" || return 1
  .venv/bin/python scripts/random_prompts.py --base "$pair/base" --prompts 2 --out "$results/prompts.h5" &&
    "$bin/mtp-bench-decode" --device cuda --compute-dtype bf16 --base "$pair/base" --drafter "$pair/drafter" \
      --prompts "$results/prompts.h5" --ignore-eos true --json "$results/decode.json" | tee "$results/decode.txt" &&
    .venv/bin/python - "$results/decode.txt" "$results/ops.json" <<'EOF'
import json, sys
read = next(line.split() for line in open(sys.argv[1]) if "GB/s" in line)
copies = [b for b in json.load(open(sys.argv[2]))["benchmarks"] if b["name"].startswith("floor/copy/")]
bandwidth = max(copies, key=lambda b: b["bytes"])
bandwidth = bandwidth["bytes"] / bandwidth["fastest"] / 1e9
rates = [float(word) for word in read if word.replace(".", "").isdigit()]
print(f"weights read, of the {bandwidth:.0f} GB/s of copies: {', '.join(f'{rate / bandwidth:.3f}' for rate in rates)}")
EOF
}

check build build
check tests ctest --preset cuda --output-on-failure -R '^(tensor|ops|dist|train|decode|bench)'
for tool in memcheck racecheck synccheck; do check "sanitizer-$tool" sanitize "$tool"; done
check train train 1 first
check same-bits-again again
check same-bits-resumed resumed
for ranks in 2 4; do check "same-bits-$ranks-ranks" shared "$ranks"; done
check bench-ops bench ops
check bench-step bench step --preset e4b --layer-groups "$groups" --length 2048 --length 4096 --directory "$results"
check reference "${REFERENCE_PYTHON:-.venv-hf/bin/python}" scripts/compare_with_reference.py "$bin" --device cuda \
  --layer-groups "$groups"
check decode decode

printf '\n%s\n' "$gpus"
printf '%s\n' "${table[@]}" | tee "$results/summary.txt"
exit $((failures > 0))
