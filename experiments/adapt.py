"""``metarl adapt``: from a run to a policy for one task, in a folder that runs anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import metarl.envs  # noqa: F401  registers the built-in families
from metarl.deploy.adapt import AdaptConfig, Initialization, adapt, adapt_to_task, environment_of
from metarl.deploy.files import check_free, save_policy
from metarl.deploy.policy import AdaptedPolicy
from metarl.experiments.kinds import FEW_SHOT, REINFORCEMENT, kind_of_run
from metarl.experiments.runs import RunError, load_config, load_run
from metarl.reinforcement.algorithms import family_for
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import draw_held_out_tasks, draw_tasks
from metarl.tasks import Task

EVALUATED = 40
"""Tasks that 'metarl evaluate' draws; one of them has the same number here."""


@dataclass(frozen=True, kw_only=True)
class AdaptRunConfig:
    """Adapt the initialization of a run to one task, and save the policy for use with plain Gymnasium."""

    output: Path | None = None
    """Folder to write; it must not exist. RUN_DIR/adapted if left out."""
    env_id: str | None = None
    """Environment registered in Gymnasium to adapt to; a module given with --plugin may register it."""
    task: int | None = None
    """Instead of that: number of a held-out task of the run's own family, among those that 'metarl evaluate' draws with
    the same seed; 0 if left out."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means the highest return after adaptation on the training run's own held-out tasks."""
    adaptation: Annotated[AdaptConfig, tyro.conf.arg(name="")] = field(default_factory=AdaptConfig)
    """How."""

    def __post_init__(self) -> None:
        if self.env_id is not None and self.task is not None:
            raise ValueError(f"give env_id or task, not both, got {self.env_id!r} and {self.task}")
        if self.task is not None and self.task < 0:
            raise ValueError(f"task must be 0 or more, got {self.task}")


def load_initialization(directory: str | Path, checkpoint: Literal["newest", "best"] = "newest") -> Initialization:
    """What a run has meta-trained, on the processor, to be adapted by ``metarl.adapt``.

    The run's task family must be known: the built-in ones are, a module of your own has to be imported before.

    Args:
        directory: the run's folder.
        checkpoint: ``newest``, or ``best`` for the one with the highest held-out return after adaptation.

    Raises:
        RunError: if the directory is not a run of a policy.
        CheckpointError: if no checkpoint can be read.
    """
    directory = Path(directory)
    kind = kind_of_run(load_config(directory))
    if kind is not REINFORCEMENT:
        got = "one of supervised tasks" if kind is FEW_SHOT else "one of rl2, whose policy learns by its memory alone"
        raise RunError(
            f"{directory} must be a run of a policy that adapts by gradient, got {got}; 'metarl evaluate {directory}' "
            "shows how it learns"
        )
    run = load_run(directory, checkpoint, device="cpu")
    train = run.config.train
    family = family_for(train.algorithm, run.config.family)
    task = draw_tasks(family, generator(train.seed, Stream.TRAIN_TASKS, 0), 1)[0]
    return Initialization(
        policy=run.learner,
        meta=run.state.meta,
        spaces=environment_of(family, task)[0],
        config=train,
        family=run.config.family_name,
        run=directory.resolve().name,
        iteration=run.state.iteration,
    )


def adapt_run(directory: Path, options: AdaptRunConfig, console: Console) -> AdaptedPolicy:
    """Adapt, print the table, save the policy, and say how to run it.

    Raises:
        RunError: if the directory is not a run of a policy, or Gymnasium does not know the environment.
        CheckpointError: if its checkpoint cannot be read.
        SpaceMismatch: if the environment's spaces are not those of the run.
        PolicyFileError: if the output exists.
    """
    output = options.output or directory / "adapted"
    check_free(output)
    policy = _adapted(directory, options)
    origin = policy.origin
    how = "adapted to" if origin.steps else "as it is, on"
    console.print(f"{origin.family} after {origin.iteration} meta-iterations, {how} {origin.task}", soft_wrap=True)
    console.print(table(policy))
    save_policy(policy, output)
    console.print(f"written to {output}; run it with", soft_wrap=True)
    console.print(snippet(output, options.env_id, policy), soft_wrap=True, markup=False, highlight=False)
    return policy


def _adapted(directory: Path, options: AdaptRunConfig) -> AdaptedPolicy:
    initialization = load_initialization(directory, options.checkpoint)
    if options.env_id is not None:
        name = options.env_id
        try:
            if ":" not in name:  # with a colon, Gymnasium imports the module before it first
                gymnasium.spec(name)
        except gymnasium.error.Error as error:
            raise RunError(
                f"env_id must be registered in Gymnasium, got {name!r} ({error}); give --plugin MODULE to import a "
                "module that registers it"
            ) from error
        return adapt(initialization, lambda: gymnasium.make(name), options.adaptation)
    family: Any = family_for(initialization.config.algorithm, load_config(directory).family)
    number = options.task or 0
    task = draw_held_out_tasks(
        family, generator(options.adaptation.seed, Stream.EVALUATION_TASKS), max(EVALUATED, number + 1)
    )[number]
    return adapt_to_task(initialization, family, task, options.adaptation, words=_words(family, task))


def _words(family: Any, task: Task) -> str:
    if hasattr(family, "describe"):
        return str(family.describe(task))
    try:
        return f"task {np.array2string(np.asarray(task, dtype=np.float64), precision=2)}"
    except (TypeError, ValueError):  # a user's tasks need not be numbers
        return f"task {str(task)[:80]}"


def table(policy: AdaptedPolicy) -> Table:
    """Mean return after 0..K gradient steps, and success where the environment tells it."""
    origin = policy.origin
    success = any(share is not None for share in origin.success)
    view = Table(title=f"return of {origin.episodes} episodes")
    for heading in ("gradient steps", "mean return", *(["success"] if success else [])):
        view.add_column(heading, justify="right")
    for step, (value, share) in enumerate(zip(origin.returns, origin.success, strict=True)):
        cells = [str(step), "diverged" if value is None else f"{value:.2f}"]
        view.add_row(*cells, *([("" if share is None else f"{100.0 * share:.0f} %")] if success else []))
    return view


def snippet(output: Path, env_id: str | None, policy: AdaptedPolicy) -> str:
    """How to run a saved policy."""
    made = f"gymnasium.make({env_id!r})" if env_id else f"...  # your environment: {policy.origin.task}"
    return "\n".join(
        f"    {line}"
        for line in (
            f"import gymnasium, metarl{'.envs' if env_id and env_id.startswith('metarl/') else ''}",
            f"env = {made}",
            f"policy = metarl.load_policy({str(output)!r})",
            "observation, _ = env.reset()",
            "action = policy.act(observation)",
        )
    )
