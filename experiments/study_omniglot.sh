#!/usr/bin/env bash
# Omniglot, 5-way 1-shot, as in table 1 of Finn et al. 2017 (arXiv:1703.03400): every learner, as far as the minutes go.
# Usage: experiments/study_omniglot.sh [FOLDER OF RUNS] [MINUTES EACH]; runs that are there are not made again.
set -euo pipefail
runs=${1:-runs}
minutes=${2:-10}
results=$(dirname "$0")/results/few-shot
kept=()
for algorithm in maml fomaml meta-sgd anil reptile imaml meta-lstm random pretrain neighbors pretrain-neighbors \
  prototypes matching matching-full-context siamese mann; do
  run=$runs/omniglot-$algorithm
  [ -f "$run/results.json" ] || metarl train omniglot --algorithm "$algorithm" --seed 1 --minutes "$minutes" \
    --runs "$runs" --name "omniglot-$algorithm"
  metarl evaluate "$run"
  kept+=("$run")
done
metarl results "${kept[@]}" --into "$results"
metarl plot "${kept[@]}" --output "$results/omniglot.png"
