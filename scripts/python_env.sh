#!/usr/bin/env bash
# Makes the virtual environment of the Python scripts, or updates it where its requirements file has changed.
#
#   scripts/python_env.sh       .venv, for data preparation and plots
#   scripts/python_env.sh hf    .venv-hf, with PyTorch, for the reference and the Hugging Face checks
#   scripts/python_env.sh tensorboard
#                               .venv-tensorboard, for the test of run.tensorboard
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") env=.venv files=(scripts/requirements.txt) ;;
  hf) env=.venv-hf files=(scripts/requirements-hf.txt scripts/requirements.txt) ;;
  tensorboard) env=.venv-tensorboard files=(scripts/requirements-tensorboard.txt) ;;
  *) echo "usage: scripts/python_env.sh [hf | tensorboard]" >&2; exit 2 ;;
esac

exec 9<"${files[0]}"
flock 9  # two tests may ask for the same environment at once

wanted=$( (python3 --version; cat "${files[@]}") | sha256sum)
stamp=$env/requirements.sha256
[[ -e $stamp && $(<"$stamp") == "$wanted" ]] && exit 0

echo "Installing ${files[0]} into $env"
python3 -m venv --clear "$env"
"$env/bin/pip" install --quiet --disable-pip-version-check --no-input --requirement "${files[0]}"
echo "$wanted" >"$stamp"
