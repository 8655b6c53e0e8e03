#!/usr/bin/env bash
# scripts/gpu_checks.sh is sound bash, and ends at once with one line where nvidia-smi finds no GPU.
set -euo pipefail
script=$(dirname "$0")/../../scripts/gpu_checks.sh
bash -n "$script"
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
printf '#!/bin/sh\necho "No devices were found"\n' >"$folder/nvidia-smi"
chmod +x "$folder/nvidia-smi"
code=0
output=$(PATH=$folder:$PATH "$script" "$folder/results" 2>&1) || code=$?
[[ $code == 1 && $output == "gpu_checks: no NVIDIA GPU"* && $(wc -l <<<"$output") == 1 && ! -e $folder/results ]] || {
  echo "exit code $code: $output"
  exit 1
}
