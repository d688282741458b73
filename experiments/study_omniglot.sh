#!/usr/bin/env bash
# Omniglot as in table 1 of Finn et al. 2017 (arXiv:1703.03400): every learner with its preset, which says how long.
# Usage: experiments/study_omniglot.sh [FOLDER OF RUNS]; runs that are there already are not made again.
set -euo pipefail
runs=${1:-runs}
results=$(dirname "$0")/results/few-shot
kept=()

# name of the run, flags of training, flags of evaluation
study() {
  local run=$runs/omniglot-$1
  # shellcheck disable=SC2086
  [ -f "$run/results.json" ] || metarl train omniglot --seed 1 --runs "$runs" --name "omniglot-$1" $2
  # shellcheck disable=SC2086
  metarl evaluate "$run" ${3:-}
  kept+=("$run")
}

for algorithm in fomaml meta-sgd anil reptile imaml random pretrain neighbors pretrain-neighbors matching \
  matching-full-context siamese mann; do
  study "$algorithm" "--algorithm $algorithm"
done
study meta-lstm "--algorithm meta-lstm" "--steps 3 --tasks 300"  # each of its steps costs as much as ten of the others
study maml "" "--variants True"
study prototypes "--algorithm prototypes" "--variants True"
# more classes in training than in the task, as Snell et al. 2017 train
study prototypes-20way "--algorithm prototypes --ways 20 --meta-batch-size 4 --iterations 6000" "--ways 5"
# test characters of writing systems that training never saw
study prototypes-alphabets "--algorithm prototypes --ways 20 --meta-batch-size 4 --split alphabets" "--ways 5"
study maml-5shot "--shots 5 --iterations 2500"
study maml-20way "--preset 20-way"

metarl evaluate "$runs/omniglot-maml" --shots 5 --label 5-shot
metarl evaluate "$runs/omniglot-maml" --transductive False --label not-transductive
metarl evaluate "$runs/omniglot-prototypes-20way" --ways 20 --label 20-way
metarl evaluate "$runs/omniglot-prototypes-20way" --ways 5 --transductive False --label not-transductive
metarl results "${kept[@]}" --into "$results"
shown=(prototypes-20way maml matching meta-sgd fomaml anil siamese pretrain reptile)  # more would hide each other
metarl plot "${shown[@]/#/$runs/omniglot-}" --output "$results/omniglot.png"
