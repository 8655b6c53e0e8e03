#!/usr/bin/env bash
# From a bare machine to a pair that decodes faster: installs, builds, makes a small pair and its data, trains on two
# ranks, exports, decodes with and without the drafter.
# Everything it makes is in quickstart/; every run starts over.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=build/release/bin
out=quickstart
step() { printf '\n== %s\n' "$*"; }

step "Packages and programs"
scripts/install_deps.sh
scripts/python_env.sh
cmake --preset release -DMTP_TESTS=OFF >/dev/null
cmake --build --preset release --target programs
rm -rf "$out"

step "A small random pair"
"$bin/mtp-make-pair" --preset small --out "$out/pair"

step "Conversations from Python's documentation, and a tokenizer for them"
.venv/bin/python scripts/prepare_data.py --source pydoc --train-tokenizer "$out/pair/base" --max-length 192 \
  --out "$out/train.h5" --validation-out "$out/validation.h5" --validation-fraction 0.03
cp "$out"/pair/base/{tokenizer.json,tokenizer_config.json,chat_template.jinja,generation_config.json} "$out/pair/drafter/"

step "Joint training on two ranks"
# For containers, where one is root; --bind-to none: each rank uses any core that is free.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun -n 2 --oversubscribe --bind-to none "$bin/mtp-train" --config configs/quickstart.cfg

step "Export and plot"
"$bin/mtp-export-hf" --from "$out/run" --out "$out/hf"
.venv/bin/python scripts/plot_run.py "$out/run" --out "$out/losses.png"

step "Decoding with and without the drafter"
base=$out/hf/base/model/consolidated
.venv/bin/python scripts/prepare_data.py --questions-of "$out/validation.h5" --limit 20 --out "$out/prompts.h5"
"$bin/mtp-bench-decode" --base "$base" --drafter "$out/hf/drafter/model/consolidated" --prompts "$out/prompts.h5" \
  --max-new-tokens 128 --json "$out/decoded.json"
.venv/bin/python scripts/prepare_data.py --decode "$out/decoded.json" --tokenizer "$base" | tail -n 12

cat <<EOF

Run directory        $out/run  (metrics.jsonl, validation.jsonl, log.txt, checkpoints/)
Hugging Face pair    $out/hf/base/model/consolidated, $out/hf/drafter/model/consolidated
Loss curves          $out/losses.png
Decoding             $out/decoded.json
EOF
