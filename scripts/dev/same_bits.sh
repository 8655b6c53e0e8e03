#!/usr/bin/env bash
# Trains two steps of 16 micro-batches, two groups of eight, and again in other ways, which must all give the same bits.
#
#   scripts/dev/same_bits.sh PROGRAMS INPUTS FOLDER [WAY…]
#
# PROGRAMS holds mtp-train and mtp-resume; mtp-export-hf and mpirun are on the PATH. INPUTS is what same-bits-inputs wrote,
# FOLDER is made. ROUNDS: of the drafter (default: 4). WAYs (default: all):
# again; resumed, after the first step; ranks, two, whose tensors go through the host.
set -euo pipefail
(($# >= 3)) || { echo "usage: scripts/dev/same_bits.sh PROGRAMS INPUTS FOLDER [again|resumed|ranks…]" >&2; exit 2; }
programs=$1 inputs=$2 folder=$3
shift 3
(($#)) || set -- again resumed ranks
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir "$folder"

train() { # RANKS RUN STEPS
  local ranks=$1 run=$folder/$2
  mpirun --oversubscribe --bind-to none -n "$ranks" "$programs/mtp-train" --run.device cuda \
    --model.base "$inputs/base" --model.drafter "$inputs/drafter" --data.train "$inputs/data.h5" --run.dir "$run" \
    --train.compute_dtype bf16 --train.global_batch 16 --train.micro_batch 1 --train.max_steps "$3" \
    --drafter.rounds "${ROUNDS:-4}" --optimizer.lr 1e-3 --schedule.style constant --dist.transport staged
}

# Keeps what is compared, not the checkpoints, which are large.
keep_results() { # RUN
  mtp-export-hf --from "$folder/$1" --out "$folder/$1/hf"
  rm -r "$folder/$1/checkpoints"
  # Not how long a step took, on how many ranks and with how much memory.
  sed -E 's/"(step_time|tokens_per_second|memory_peak|ranks)": *[^,}]*,?//g' "$folder/$1/metrics.jsonl" >"$folder/$1/hf/metrics"
}

compare() { # RUN
  local different
  keep_results "$1"
  different=$(diff -rq "$folder/first/hf" "$folder/$1/hf") || {
    echo "same_bits: $1: other bits: $different" >&2
    exit 1
  }
  rm -r "${folder:?}/$1"
  echo "same_bits: $1: the same bits"
}

train 1 first 2
keep_results first
for way in "$@"; do
  case $way in
    again) train 1 again 2 ;;
    resumed)
      train 1 resumed 1
      "$programs/mtp-resume" --from "$folder/resumed" --train.max_steps 2
      ;;
    ranks) train 2 ranks 2 ;;
    *) echo "same_bits: there is no way $way" >&2; exit 2 ;;
  esac
  compare "$way"
done
