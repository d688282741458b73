#!/usr/bin/env bash
# Meta-World tried for real, in an environment of its own, since its release pins an older MuJoCo than constraints.txt:
# installs the extra, runs its tests, checks the families, trains ML1 reach for a few minutes and keeps the small files.
#   bash experiments/metaworld.sh [ENVIRONMENT [RUNS]]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-$(mktemp -d)}
runs=${2:-$(mktemp -d)}
results=experiments/results/metaworld-ml1-reach
name=metaworld-ml1-1

python3 -m venv "$venv"
export PATH="$venv/bin:$PATH"
grep -v '^mujoco==' constraints.txt > "$venv/constraints.txt"
pip install --quiet --constraint "$venv/constraints.txt" --editable '.[metaworld,test]'
pip list | grep -iE '^(gymnasium|metaworld|mujoco|numpy|torch) '

pytest -q -m '' tests/envs/test_metaworld.py
for family in metaworld-ml1 metaworld-ml10 metaworld-ml45; do
    metarl check "$family"
done
metarl train metaworld-ml1 --runs "$runs" --name "$name" --iterations 10 --held-out-every 5 --workers.count 2
metarl evaluate "$runs/$name" --steps 3 --tasks 20 --episodes 10
metarl results "$runs/$name" --into "$results"
metarl plot "$runs/$name" --output "$results/$name.png"
