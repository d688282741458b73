#!/usr/bin/env bash
# Table 2 and Figure 3 of Finn et al. 2017 (arXiv:1703.03400): sinusoids after 0 to 10 gradient steps. About 40 minutes
# on one core. Usage: experiments/study_sinusoid.sh [FOLDER OF RUNS]; runs that are there already are not made again.
set -euo pipefail
runs=${1:-runs}
results=$(dirname "$0")/results/few-shot
kept=()
for algorithm in maml meta-sgd anil pretrain oracle random; do
  run=$runs/sin-$algorithm
  preset=maml-paper
  case $algorithm in oracle | random) preset=default ;; esac  # 20,000 iterations are plenty for the one, 0 for the other
  [ -f "$run/results.json" ] || metarl train sinusoid --preset "$preset" --algorithm "$algorithm" --seed 1 \
    --log-every 500 --held-out-every 5000 --runs "$runs" --name "sin-$algorithm"
  metarl evaluate "$run" --variants True
  kept+=("$run")
done
metarl results "${kept[@]}" --into "$results"
metarl plot "${kept[@]}" --output "$results/sinusoid.png"
