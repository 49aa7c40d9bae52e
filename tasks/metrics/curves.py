"""Learning curves as one picture."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path

from simyard.tasks.metrics.events import Series

_SHOWN = ("reward", "episode_length", "ep_len", "total timesteps (mean)", "episode_lengths", "success", "loss", "std")
MOST = 9
"""Charts of one job."""


def import_ahead() -> None:
    """Import matplotlib, a second of work, on a thread of its own: a simulator is starting meanwhile."""
    modules = ("matplotlib.figure", "matplotlib.backends.backend_agg")
    threading.Thread(target=lambda: [import_module(name) for name in modules], daemon=True).start()


def choose(tags: Iterable[str], reward_tag: str) -> list[str]:
    """Return the tags to draw: the reward first, then episode lengths, success, losses and the policy's deviation."""
    tags = list(tags)
    first = [tag for tag in tags if tag == reward_tag]
    return list(dict.fromkeys([*first, *(tag for word in _SHOWN for tag in tags if word in tag.lower())]))[:MOST]


def draw(columns: Mapping[str, Series], reward_tag: str, title: str, path: Path) -> bool:
    """Draw the curves that `choose` picks.

    Returns:
        False when there is nothing to draw.
    """
    chosen = choose((tag for tag in columns if columns[tag].steps), reward_tag)
    if not chosen:
        return False
    from matplotlib.figure import Figure

    width = min(3, len(chosen))
    height = math.ceil(len(chosen) / width)
    figure = Figure(figsize=(4.6 * width, 3.0 * height), layout="constrained")
    figure.suptitle(title)
    for index, tag in enumerate(chosen):
        axes = figure.add_subplot(height, width, index + 1)
        axes.plot(
            columns[tag].steps, columns[tag].values, linewidth=1.5, marker="." if len(columns[tag].steps) < 3 else ""
        )
        axes.set_title(tag, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return True
