#!/usr/bin/env bash
# What waits for a GPU in docs/gpu.md, from the folder that scripts/dev/gpu_kit.sh packs, on a machine with one.
#
#   scripts/dev/gpu_checks.sh [STAGE…]   default: all, in their order
#
# A stage that fails or outlasts its time does not stop the next. Writes to $OUT (default: gpu-results): summary.txt, which
# grows by a line for each stage, log.txt, and the timings as JSON, seven files at the most. Without a card, what can runs
# on an emulated one, and the rest is skipped.
set -uo pipefail
kit=$(realpath "$(dirname "$0")/../..")
declare -A limits=([environment]=20 [operations]=120 [fixtures]=60 [same-bits]=120 [nccl]=60 [floors]=90 [step]=90
                   [memory-checker]=60)
order=(environment operations fixtures same-bits nccl floors step memory-checker)

fail() { echo "gpu_checks: $*" >&2; exit 2; }
[[ -x $kit/bin/run ]] || fail "$kit: no bin/run; scripts/dev/gpu_kit.sh packs a folder that has it"
results=$(realpath -m "${OUT:-gpu-results}")

has_card() { nvidia-smi -L 2>/dev/null | grep -q ^GPU; }
ranks() { mpirun --oversubscribe --bind-to none -n "$@"; }

# Tests that need the card, by their parameter's name; those of Python and of the emulation are other programs.
test_program() { # NAME FILTER
  "$kit/tests/programs/test-$1" --gtest_brief=1 --gtest_filter="$2"
}

environment() {
  local missing
  nvidia-smi || true
  nproc
  missing=$(ldd "$kit"/libexec/* "$kit"/tests/programs/* | grep 'not found' | sort -u)
  [[ -z $missing ]] || { echo "$missing"; return 1; }
  mtp-train --version
}

operations() {
  local shard shards=8 failed=0
  for ((shard = 0; shard < shards; ++shard)); do
    GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard test_program ops '*cuda*' &
  done
  test_program tensor '*cuda*' || failed=1
  for ((shard = 0; shard < shards; ++shard)); do wait -n || failed=1; done
  return $failed
}

fixtures() {
  local failed=0
  test_program train-mpi 'Fixtures/*cuda*:SteadySteps/*cuda*' || failed=1
  test_program decode-mpi '*Gpu*' || failed=1
  return $failed
}

# E4B's widths on the card: one group of layers, and a vocabulary that leaves time for the rest.
same-bits() {
  local work programs=$kit/libexec failed=0
  local shape=(--preset e4b --layer-groups 1 --vocabulary 32768 --length 2048)
  work=$(mktemp -d)
  if ! has_card; then
    shape=(--preset tiny --layer-groups 1 --vocabulary 128 --head-size 64 --length 24) programs=$kit/tests/emulated
    export ROUNDS=1
  fi
  "$kit/tests/programs/same-bits-inputs" "${shape[@]}" --samples 32 --out "$work/inputs" &&
    "$kit/scripts/dev/same_bits.sh" "$programs" "$work/inputs" "$work/runs" || failed=1
  rm -r "$work"
  return $failed
}

nccl() {
  local count failed=0
  if has_card; then
    for count in 1 2; do
      ranks "$count" "$kit/tests/programs/test-parallel-mpi" --gtest_brief=1 --gtest_filter='*cuda*' || failed=1
    done
  fi
  a_rank_that_stops || failed=1
  return $failed
}

# Two ranks train by NCCL, on one card if there is no other; one of them stops. The other must give up NCCL's collectives
# and end the job with one line.
a_rank_that_stops() {
  local work job failed=0 fixture=$kit/tests/fixtures/e4b programs=$kit/libexec
  has_card || programs=$kit/tests/emulated
  work=$(mktemp -d)
  # shellcheck disable=SC2016  # the rank's shell says who it is
  ranks 2 "$kit/scripts/dev/own_host.sh" sh -c 'echo $$ >"$0-$OMPI_COMM_WORLD_RANK" && exec "$@"' "$work/rank" \
    "$programs/mtp-train" --config "$fixture/settings.cfg" --model.base "$fixture/base" \
    --model.drafter "$fixture/drafter" --data.train "$fixture/data.h5" --run.dir "$work/run" --run.device cuda \
    --dist.transport nccl --dist.timeout_minutes 0.05 --train.max_steps 100000 &>"$work/log" &
  job=$!
  until [[ -s $work/run/metrics.jsonl ]] || ! kill -0 $job; do sleep 0.2; done
  kill -STOP "$(<"$work/rank-1")"
  ! wait $job || failed=1
  grep -E '^error: .*no answer from rank 1' "$work/log" || { tail -n 20 "$work/log"; failed=1; }
  kill -KILL "$(<"$work/rank-1")" 2>/dev/null
  rm -r "$work"
  return $failed
}

bench() { # NAME FILE OPTION…
  "mtp-bench-$1" --device cuda --benchmark_out="$results/$2.json" "${@:3}"
}
floors() { bench ops operations --benchmark_filter='(floor|e4b.*bf16)'; }
step() {
  local groups failed=0
  for groups in 1 3; do
    bench step "step-$groups" --preset e4b --layer-groups "$groups" --length 2048 || failed=1
  done
  return $failed
}

# Some ten of the operations' cases, spread evenly: the checker is slow.
memory-checker() {
  GTEST_TOTAL_SHARDS=71 GTEST_SHARD_INDEX=0 compute-sanitizer --error-exitcode 1 \
    "$kit/tests/programs/test-ops" --gtest_brief=1 --gtest_filter='*OperationTest*cuda*'
}

run_stage() { # NAME
  local name=$1 begin=$SECONDS outcome=passed code=0
  if ! has_card && [[ ! $name =~ ^(environment|same-bits|nccl)$ ]]; then
    outcome='skipped: no device'
  else
    has_card || [[ $name == environment ]] || outcome='passed on an emulated device'
    timeout -k 5 "${LIMIT:-${limits[$name]}}" "$0" --inside "$name" </dev/null &>"$results/stage.log" || code=$?
    case $code in 0) ;; 124 | 137) outcome=TIMEOUT ;; *) outcome=FAILED ;; esac
    # A result file is 16 MiB at the most.
    { echo "== $name: $outcome"; tail -c 1500000 "$results/stage.log"; } >>"$results/log.txt"
    rm "$results/stage.log"
  fi
  printf '%-16s %4d s  %s\n' "$name" $((SECONDS - begin)) "$outcome" | tee -a "$results/summary.txt"
  [[ $outcome != TIMEOUT && $outcome != FAILED ]]
}

# CUDA's libraries and NCCL: the toolkit's, or those of Python's packages.
cuda_folders() {
  ls -d /usr/local/cuda/lib64 2>/dev/null
  python3 -c 'import nvidia, glob
for root in nvidia.__path__: print(*glob.glob(root + "/*/lib"), sep="\n")' 2>/dev/null
}

if [[ ${1:-} == --inside ]]; then
  "$2"
  exit
fi
for stage in "$@"; do [[ -n ${limits[$stage]:-} ]] || fail "there is no stage $stage; stages: ${order[*]}"; done
if [[ -z ${GPU_CHECKS_ENVIRONMENT:-} ]]; then
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(cuda_folders | paste -sd :)
  export GPU_CHECKS_ENVIRONMENT=1 LD_LIBRARY_PATH PATH=$kit/libexec:$kit/mpi/bin:$PATH MTP_SOURCE_DIR=$kit
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  exec "$kit/bin/run" "$(realpath "$0")" "$@"
fi
mkdir -p "$results" || exit
rm -f "$results"/{summary.txt,log.txt}
failures=0
(($#)) || set -- "${order[@]}"
for stage in "$@"; do run_stage "$stage" || failures=$((failures + 1)); done
exit $((failures > 0))
