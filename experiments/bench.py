"""``metarl bench``: how fast sampling and whole meta-iterations are, beside the physics alone in the same run.

Other work on the machine changes absolute figures; the ratio of two things timed in turn, in the same repetition,
stays nearly the same. So every repetition times the subject, then the physics alone with the very actions it took.
"""

from metarl.experiments.bench_iteration import IterationBench, run_iteration_bench
from metarl.experiments.bench_rollout import RolloutBench, run_rollout_bench

__all__ = ["IterationBench", "RolloutBench", "run_iteration_bench", "run_rollout_bench"]
