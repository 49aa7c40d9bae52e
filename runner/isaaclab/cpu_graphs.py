"""Newton's solver on the CPU, replayed from a graph as on a GPU: the same kernels in the same order, without Python.

Isaac Lab captures a simulation step as a graph on CUDA only. On the CPU each substep is about a hundred kernel launches
from Python, which take ten times longer than the kernels of a small robot. Warp has graphs for the CPU too.
"""

from __future__ import annotations

from typing import Any

from simyard.runner.imported import when_imported


def replay_on_cpu() -> None:
    """Let every Newton solver that Isaac Lab builds on the CPU from now on replay its step; once is enough.

    What a step computes is the same to the bit, loops that end when they have converged included. A solver that Isaac
    Lab would not capture on CUDA is left as it is, and `env.sim.physics.use_cuda_graph=false` leaves all.
    """
    when_imported("isaaclab_newton.physics.newton_manager", _wrap_solvers)


def _wrap_solvers() -> None:
    from isaaclab_newton.physics.newton_manager import NewtonManager

    bound: Any = NewtonManager._invalidate_graph
    invalidate_graph = bound.__func__
    if invalidate_graph.__module__ == __name__:
        return

    def wrap(cls: Any) -> None:
        from isaaclab.physics import PhysicsManager

        # Isaac Lab calls it whenever a graph of old would no longer be right: for a new solver, after a hard reset.
        invalidate_graph(cls)
        cfg, solver = PhysicsManager._cfg, NewtonManager._solver
        if cfg.use_cuda_graph and str(PhysicsManager._device) == "cpu" and cls._supports_cuda_graph_capture():
            solver.step = _Replay(type(solver).step.__get__(solver))

    NewtonManager._invalidate_graph = classmethod(wrap)


class _Replay:
    """A solver's `step`: the first call for some states computes and then records, all others replay."""

    def __init__(self, step: Any) -> None:
        self._step = step
        self._graphs: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, *arguments: Any) -> None:
        import warp

        key = tuple(item if isinstance(item, float) else id(item) for item in arguments)
        if key in self._graphs:
            warp.capture_launch(self._graphs[key][0])
            return
        self._step(*arguments)  # outside of the recording, since it may allocate and load kernels
        with warp.ScopedCapture(device="cpu") as capture:
            self._step(*arguments)
        self._graphs[key] = capture.graph, arguments  # kept, so that no other object gets their ids
