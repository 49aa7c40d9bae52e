"""Stands in for Isaac Sim 5.1 under the real Isaac Lab 2.3.2: `carb`, `omni`, `isaacsim`, and what comes with them.

Of Isaac Sim 5.1 the package index has names alone. What it would simulate is a toy: a point that is pushed along a
line. All else is real: the scripts, their flags, Hydra, the configurations, the libraries.
"""

import importlib.util
import os
import sys
from importlib.abc import Loader, MetaPathFinder

NAMES = ("carb", "omni", "isaacsim", "cv2", "matplotlib")


class Named(type):
    """The class of all that the app has: each has more of it."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = Named(name, (Anything,), {})
        setattr(cls, name, made)
        return made

    def __int__(cls):
        return 5


class Anything(metaclass=Named):
    """Takes every call, and is 5, empty and false."""

    def __init__(self, *arguments, **options):
        pass

    def __getattr__(self, name):
        return getattr(type(self), name)

    def __call__(self, *arguments, **options):
        return self

    def __getitem__(self, key):
        return self

    def __iter__(self):
        return iter(())

    def __len__(self):
        return 0

    def __int__(self):
        return 5

    def __str__(self):
        return "5"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Modules(MetaPathFinder, Loader):
    """Finds every module of the app."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES or name == "pxr.PhysxSchema":
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__file__ = __file__
        things = Named(module.__name__, (Anything,), {})
        module.__getattr__ = lambda name: getattr(things, name)
        if module.__name__ == "isaacsim":
            module.SimulationApp = SimulationApp


class SimulationApp:
    """The app: it hears no signal, and to close it ends the process with 0."""

    def __init__(self, config=None, experience=""):
        self.config = config

    def is_running(self):
        return True

    def close(self, *arguments, **options):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Toy:
    """Makes the toy of the real `DirectRLEnv`, in place of every task."""

    def __new__(cls, task, cfg, render_mode=None):
        import gymnasium
        import torch
        from isaaclab.envs import DirectRLEnv

        class Point(DirectRLEnv):
            def __init__(self):
                self.cfg, self.render_mode = cfg, render_mode
                self.count, self.max_length = cfg.scene.num_envs, 30
                self.sim = Anything()
                self.scene = Anything()
                self.single_observation_space = gymnasium.spaces.Dict(
                    policy=gymnasium.spaces.Box(-float("inf"), float("inf"), (4,))
                )
                self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
                batch = gymnasium.vector.utils.batch_space
                self.observation_space = batch(self.single_observation_space["policy"], self.count)
                self.action_space = batch(self.single_action_space, self.count)
                self.episode_length_buf = torch.zeros(self.count, dtype=torch.long, device=self.device)
                self.at = torch.zeros(self.count, 4, device=self.device)
                self.extras = {}

            num_envs = property(lambda self: self.count)
            device = property(lambda self: cfg.sim.device)
            max_episode_length = property(lambda self: self.max_length)

            def seed(self, seed=-1):
                torch.manual_seed(seed)
                return seed

            def _get_observations(self):
                return {"policy": self.at.clone()}

            def reset(self, seed=None, options=None):
                self.at.zero_()
                return self._get_observations(), {}

            def step(self, actions):
                self.at[:, 0] += actions[:, 0].clamp(-1, 1) * 0.1
                self.episode_length_buf += 1
                ended = self.episode_length_buf >= self.max_length
                self.at[ended] = 0.0
                self.episode_length_buf[ended] = 0
                return self._get_observations(), self.at[:, 0].clone(), torch.zeros_like(ended), ended, {}

            def close(self):
                pass

            def __del__(self):
                pass

        return Point()


os.environ.setdefault("EXP_PATH", "apps")
sys.meta_path.insert(0, Modules())
if sys.argv[0] != "-m":
    import gymnasium

    gymnasium.make = Toy
