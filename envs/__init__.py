"""Built-in task families; importing this registers them, and their Gymnasium environments, by name."""

if __name__ != "metarl.envs":
    raise ImportError(
        f"the built-in task families must be imported as 'metarl.envs', not as {__name__!r}, or they would register "
        "twice: write `import metarl.envs`"
    )

import gymnasium

from metarl.envs.ant import AntDir, AntDirEnv, AntVel, AntVelEnv
from metarl.envs.ant_goal import AntGoal, AntGoalEnv
from metarl.envs.bandit import Bandit, BanditEnv
from metarl.envs.boolean import Boolean
from metarl.envs.cartpole import CartPole, CartPoleTaskEnv
from metarl.envs.half_cheetah import HalfCheetahDir, HalfCheetahDirEnv, HalfCheetahVel, HalfCheetahVelEnv
from metarl.envs.humanoid import HumanoidDir, HumanoidDirEnv
from metarl.envs.image_folder import ImageFolder
from metarl.envs.metaworld import MetaWorldEnv, MetaWorldML1, MetaWorldML10, MetaWorldML45, MetaWorldTask
from metarl.envs.mini_imagenet import MiniImageNet
from metarl.envs.navigation import Navigation2D, Navigation2DEnv
from metarl.envs.omniglot import Omniglot
from metarl.envs.sinusoid import Sinusoid
from metarl.envs.tabular_mdp import TabularMDP, TabularMDPEnv
from metarl.envs.walkers import HopperRandParams, HopperRandParamsEnv, Walker2dRandParams, Walker2dRandParamsEnv

HORIZONS = {
    "metarl/Navigation2D-v0": ("metarl.envs.navigation:Navigation2DEnv", 100),
    "metarl/HalfCheetahVel-v0": ("metarl.envs.half_cheetah:HalfCheetahVelEnv", 200),
    "metarl/HalfCheetahDir-v0": ("metarl.envs.half_cheetah:HalfCheetahDirEnv", 200),
    "metarl/AntVel-v0": ("metarl.envs.ant:AntVelEnv", 200),
    "metarl/AntDir-v0": ("metarl.envs.ant:AntDirEnv", 200),
    "metarl/Bandit-v0": ("metarl.envs.bandit:BanditEnv", 10),
    "metarl/TabularMDP-v0": ("metarl.envs.tabular_mdp:TabularMDPEnv", 10),
    "metarl/CartPole-v0": ("metarl.envs.cartpole:CartPoleTaskEnv", 200),
    "metarl/AntGoal-v0": ("metarl.envs.ant_goal:AntGoalEnv", 200),
    "metarl/HumanoidDir-v0": ("metarl.envs.humanoid:HumanoidDirEnv", 200),
    "metarl/Walker2dRandParams-v0": ("metarl.envs.walkers:Walker2dRandParamsEnv", 200),
    "metarl/HopperRandParams-v0": ("metarl.envs.walkers:HopperRandParamsEnv", 200),
}
"""Class and horizon in control steps of each Gymnasium id.

Finn et al. 2017, arXiv:1703.03400, app. A.2; bandits and tabular MDPs Duan et al. 2016, arXiv:1611.02779; humanoid,
walker and hopper as in PEARL's code (arXiv:1903.08254); cart-pole Gymnasium's CartPole-v0.
"""

for _id, (_entry_point, _horizon) in HORIZONS.items():
    gymnasium.register(id=_id, entry_point=_entry_point, max_episode_steps=_horizon)

__all__ = [
    "AntDir",
    "AntDirEnv",
    "AntGoal",
    "AntGoalEnv",
    "AntVel",
    "AntVelEnv",
    "Bandit",
    "BanditEnv",
    "Boolean",
    "CartPole",
    "CartPoleTaskEnv",
    "HORIZONS",
    "HalfCheetahDir",
    "HalfCheetahDirEnv",
    "HalfCheetahVel",
    "HalfCheetahVelEnv",
    "HopperRandParams",
    "HopperRandParamsEnv",
    "HumanoidDir",
    "HumanoidDirEnv",
    "ImageFolder",
    "MetaWorldEnv",
    "MetaWorldML1",
    "MetaWorldML10",
    "MetaWorldML45",
    "MetaWorldTask",
    "MiniImageNet",
    "Navigation2D",
    "Navigation2DEnv",
    "Omniglot",
    "Sinusoid",
    "TabularMDP",
    "TabularMDPEnv",
    "Walker2dRandParams",
    "Walker2dRandParamsEnv",
]
