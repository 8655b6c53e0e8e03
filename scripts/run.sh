#!/usr/bin/env bash
# From a bare machine to a pair that decodes faster: installs, builds, makes a small pair and its data, trains on two
# ranks, exports, decodes with and without the drafter.
#
#   scripts/run.sh           conversations about Python's documentation, in quickstart/
#   scripts/run.sh images    questions about photographs, in quickstart_images/
#
# Every run starts over.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=build/release/bin
step() { printf '\n== %s\n' "$*"; }

# $1: of which Python environment.
install() {
  step "Packages and programs"
  scripts/install_deps.sh
  scripts/python_env.sh "$@"
  cmake --preset release -DMTP_TESTS=OFF >/dev/null
  cmake --build --preset release --target programs
  rm -rf "$out"
}

make_pair() {
  step "A small random pair"
  "$bin/mtp-make-pair" --preset "$1" --out "$out/pair"
}

train() {
  cp "$out"/pair/base/{tokenizer.json,tokenizer_config.json,chat_template.jinja,generation_config.json} "$out/pair/drafter/"
  step "Joint training on two ranks"
  # For containers, where one is root; --bind-to none: each rank uses any core that is free.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  mpirun -n 2 --oversubscribe --bind-to none "$bin/mtp-train" --config "$1"

  step "Export and plot"
  "$bin/mtp-export-hf" --from "$out/run" --out "$out/hf"
  "$python" scripts/plot_run.py "$out/run" --out "$out/losses.png"
}

decode() {
  step "Decoding with and without the drafter"
  "$python" scripts/prepare_data.py --questions-of "$out/validation.h5" --limit "$1" --out "$out/prompts.h5"
  "$bin/mtp-bench-decode" --base "$base" --drafter "$out/hf/drafter/model/consolidated" --prompts "$out/prompts.h5" \
    --max-new-tokens 128 --json "$out/decoded.json"
}

text() {
  install
  make_pair small

  step "Conversations from Python's documentation, and a tokenizer for them"
  "$python" scripts/prepare_data.py --source pydoc --train-tokenizer "$out/pair/base" --max-length 192 \
    --out "$out/train.h5" --validation-out "$out/validation.h5" --validation-fraction 0.03
  train configs/quickstart.cfg
  decode 20
  "$python" scripts/prepare_data.py --decode "$out/decoded.json" --tokenizer "$base" | tail -n 12
}

images() {
  install hf
  make_pair small-vision

  step "Pictures made of photographs, questions about them, and a tokenizer for these"
  "$python" scripts/picture_questions.py --out "$out/questions"
  "$python" scripts/prepare_data.py --strict "$out/questions/train.jsonl" --train-tokenizer "$out/pair/base" \
    --out "$out/train.h5"
  "$python" scripts/prepare_data.py --strict "$out/questions/held_out.jsonl" --tokenizer "$out/pair/base" \
    --out "$out/validation.h5"
  train configs/quickstart_images.cfg
  decode 100
  "$python" scripts/answers_page.py --questions "$out/questions/held_out.jsonl" --decoded "$out/decoded.json" \
    --tokenizer "$base" --out "$out/answers.html"
}

case "${1-}" in
  "") out=quickstart python=.venv/bin/python example=text ;;
  images) out=quickstart_images python=.venv-hf/bin/python example=images ;;
  *) echo "usage: scripts/run.sh [images]" >&2; exit 2 ;;
esac
base=$out/hf/base/model/consolidated
"$example"

cat <<EOF

Run directory        $out/run  (metrics.jsonl, validation.jsonl, log.txt, checkpoints/)
Hugging Face pair    $base, $out/hf/drafter/model/consolidated
Loss curves          $out/losses.png
Decoding             $out/decoded.json
EOF
