"""The live viewer of a simulation: Isaac Lab's for viser, a page of this machine's loopback, which changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simyard.runner.progress import say_viewer
from simyard.runner.rl.base import with_methods

LOOPBACK = "127.0.0.1"
"""The only address it listens on: viser asks nobody for a key."""
PORT = 8080
"""The first port that it tries; one that is taken gives way to the next."""
MOST_ENVS = 64
"""Environments that are drawn, those around the origin, where the camera is: a browser has enough of them."""
FRAME_S = 1 / 30
"""Seconds between two frames: the simulation goes faster than anybody looks."""


@contextmanager
def viewed() -> Iterator[None]:
    """Show every simulation that is made in the body, while it is there, and say at which address.

    Its configuration stays as it is, and so does what the job leaves. Nothing but a browser that is open costs time.
    """
    from isaaclab.sim import SimulationContext
    from isaaclab_visualizers.viser import ViserVisualizerCfg
    from isaaclab_visualizers.viser.viser_visualizer import ViserVisualizer

    class Viewer(ViserVisualizer):  # type: ignore[misc]
        """Isaac Lab's, without the buttons that hold the simulation or end its episodes: who looks changes nothing."""

        drawn = 0.0

        def initialize(self, scene_data_provider: Any) -> None:
            if (scene := SimulationContext.instance()._interactive_scene) is not None:
                nearest = scene.env_origins[:, :2].norm(dim=1).argsort()[:MOST_ENVS]
                self.cfg.visible_env_indices = sorted(nearest.tolist())
            super().initialize(scene_data_provider)
            self.cfg.port = self._viewer._server.get_port()  # the next simulation's too
            say_viewer(f"http://{LOOPBACK}:{self.cfg.port}")

        def step(self, dt: float) -> None:
            now = time.monotonic()
            if now - self.drawn >= FRAME_S:
                self.drawn = now
                super().step(dt)

        def _setup_isaaclab_sidebar(self, server: Any) -> None:
            server.gui.set_panel_label("simyard")
            self._viewer._live_plots_folder = server.gui.add_folder("Live Plots", expand_by_default=False)

    # Never a draw of environments: it would take numbers from the generator that the task draws from.
    cfg = ViserVisualizerCfg(
        class_type=Viewer, bind_address=LOOPBACK, port=PORT, verbose=False, max_visible_envs=MOST_ENVS,
        randomly_sample_visible_envs=False,
    )  # fmt: skip
    with with_methods(
        SimulationContext,
        _configured_visualizer_cfgs=lambda simulation: [cfg],
        _is_cli_visualizer_explicit=lambda simulation: False,
        _is_cli_visualizer_disable_all=lambda simulation: False,
    ):
        yield
