"""``metarl bench``: how fast sampling, outer updates and whole meta-iterations are, and how clear inner gradients are.

Other work on the machine changes absolute figures; the ratio of two things timed in turn, in the same repetition,
stays nearly the same. So every repetition times the subject, then the physics alone with the very actions it took.
"""

from metarl.experiments.bench_few_shot import FewShotBench, run_few_shot_bench
from metarl.experiments.bench_gradient import GradientBench, run_gradient_bench
from metarl.experiments.bench_iteration import IterationBench, run_iteration_bench
from metarl.experiments.bench_rollout import RolloutBench, run_rollout_bench
from metarl.experiments.bench_update import UpdateBench, run_update_bench

__all__ = [
    "FewShotBench",
    "GradientBench",
    "IterationBench",
    "RolloutBench",
    "UpdateBench",
    "run_few_shot_bench",
    "run_gradient_bench",
    "run_iteration_bench",
    "run_rollout_bench",
    "run_update_bench",
]
