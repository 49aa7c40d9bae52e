"""Make the pictures of the documents: `make pictures`. Real jobs in the real simulator, and their pages in Chromium.

They show what a reader gets: curves as jobs leave them, a film as GIF, pages of the service and of Prefect's UI, the
live viewer. Each part can be made alone: `PARTS="sweep managed"`.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "service")]

import imageio_ffmpeg  # noqa: E402
from browser import Tab, browsing  # noqa: E402
from helpers import HANG_S, SIMYARD, Server, serving_prefect, wait_until  # noqa: E402
from PIL import Image  # noqa: E402
from serving import Service, site  # noqa: E402

from simyard.store import keys  # noqa: E402
from simyard.store.keys import JobKeys  # noqa: E402

ROOT = TESTS.parent
PICTURES = ROOT / "docs" / "pictures"
EXAMPLES = ROOT / "examples"
WIDE, NARROW = 1440, 390
"""Pixels of a window."""
MOST_BYTES = 200_000
SETTLE_S = 4.0
"""Seconds that a drawing of another's page may move: it has no sign that it is done."""


@dataclass(frozen=True)
class Place:
    """The Prefect server, the service and the browser that all parts share, and a folder that goes afterwards."""

    folder: Path
    server: Server
    service: Service
    key: str
    tab: Tab

    def simyard(self, *arguments: object) -> Any:
        """Run a command on the store; return the object that `--json` prints last."""
        command = [SIMYARD, *map(str, arguments), "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self.service.env, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def prefect(self, path: str, asked: dict[str, Any]) -> Any:
        """Return what Prefect's API answers."""
        data = json.dumps(asked).encode()
        request = urllib.request.Request(f"{self.server.url}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def page(self, path: str) -> str:
        """Return the address of a thing's page, as the API tells it."""
        return str(self.service.call("GET", path, key=self.key).json["page_url"])


def main() -> None:
    """Make all of them, or those of the parts that are named."""
    parts = sys.argv[1:] or [*PARTS]
    if unknown := sorted(set(parts) - set(PARTS)):
        sys.exit(f"No parts: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, placed(Path(scratch)) as place:
        for part in parts:
            PARTS[part](place)
    too_large = []
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")
        too_large += [path.name] if path.suffix == ".png" and path.stat().st_size > MOST_BYTES else []
    if too_large:
        sys.exit(f"Larger than {MOST_BYTES / 1000:.0f} kB: {', '.join(too_large)}")


@contextmanager
def placed(folder: Path) -> Iterator[Place]:
    """Yield what all parts share."""
    for name in ("server", "browser"):
        (folder / name).mkdir()
    with serving_prefect(folder / "server") as server:
        service = site(folder, server, OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        service.start()
        try:
            # Prefect's graphs and the viewer are WebGL, which the processor draws here.
            with browsing(folder / "browser", "--use-angle=swiftshader", "--enable-unsafe-swiftshader") as tab:
                yield Place(folder, server, service, service.key(), tab)
        finally:
            service.stop()


def jobs(place: Place) -> None:
    """A training and its evaluation, and another training beside it."""
    store, config = place.service.store, EXAMPLES / "cartpole-training-config.json"
    trained = [place.simyard("train", config, *more)["job_id"] for more in ([], ["seed=7", "maxIterations=30"])]
    evaluation = EXAMPLES / "cartpole-evaluation-config.json"
    evaluated = place.simyard("evaluate", evaluation, "--job", trained[0])["job_id"]
    store.get_file(JobKeys(trained[0]).artifact("curves.png"), PICTURES / "curves.png")
    videos = store.list(JobKeys(evaluated).artifact("videos/"))
    store.get_file(next(one.key for one in videos if one.key.endswith(".mp4")), place.folder / "film.mp4")
    as_gif(place.folder / "film.mp4", PICTURES / "film.gif")
    for job_id, name in ((trained[0], "job-page"), (evaluated, "evaluation-page")):
        shown(place, place.page(f"/v0/jobs/{job_id}"), name)
    chosen, token = "&".join(f"job={job_id}" for job_id in trained), place.page("/v1/home").partition("?")[2]
    shown(place, f"{place.service.url}/compare?{chosen}&{token}", "compare")

    # A job's run as Prefect shows it: its tasks in time, and what they said.
    asked = {"flow_runs": {"tags": {"all_": [trained[0]]}}}
    graph(place, place.prefect("flow_runs/filter", asked)[0]["id"], "prefect-run")


def sweep(place: Place) -> None:
    """The sweep of the example."""
    done = place.simyard("sweep", EXAMPLES / "sweeps" / "cartpole.json", "--wait")
    sweep_id = done["sweep_id"]
    curves = keys.SweepKeys(sweep_id).artifact("curves.png")
    place.service.store.get_file(curves, PICTURES / "sweep-curves.png")
    shown(place, place.page(f"/v1/sweeps/{sweep_id}"), "sweep-page")


def managed(place: Place) -> None:
    """The graph of a managed run of three iterations."""
    config = EXAMPLES / "managed_training" / "cartpole-ppo.json"
    done = place.simyard("managed", "start", config, "--wait", "--set", "loop_policy.max_iterations=3")
    found = place.prefect("flow_runs/filter", {"flow_runs": {"tags": {"all_": [done["run_id"]]}}})
    graph(place, found[0]["id"], "managed-run")


def view(place: Place) -> None:
    """The live viewer of a training, which is canceled when the picture is there."""
    command = [SIMYARD, "train", str(EXAMPLES / "cartpole-training-config.json"), "--view", "maxIterations=100000"]
    said = place.folder / "view.log"
    with said.open("wb") as log:
        training = subprocess.Popen([*command], cwd=ROOT, env=place.service.env, stdout=log, stderr=log)
    try:
        url = wait_until(lambda: re.search(r"viewer: +(\S+)", said.read_text()), HANG_S, "the viewer's address")[1]
        place.tab.visit(url, 1000, "document.querySelector('canvas')")
        time.sleep(4 * SETTLE_S)
        place.tab.js("document.querySelectorAll('.mantine-Notification-closeButton').forEach(one => one.click())")
        time.sleep(1.0)  # it fades
        keep(place.tab, PICTURES / "view.png", 1000, 640, scale=0.8)
        place.tab.visit("about:blank", 1000, "true")
    finally:
        training.send_signal(signal.SIGINT)
        training.wait(HANG_S)


PARTS: dict[str, Callable[[Place], None]] = {"jobs": jobs, "sweep": sweep, "managed": managed, "view": view}


def as_gif(film: Path, target: Path) -> None:
    """Write the first seconds of a film as a small GIF with a palette of its own."""
    shown = "fps=12,scale=400:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=64[p];[b][p]paletteuse=dither=none"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-loglevel", "error", "-y", "-t", "5", "-i", film, "-vf", shown, target], check=True)


def shown(place: Place, url: str, name: str) -> None:
    """Keep the first screens of a page of the service."""
    tab = place.tab
    tab.open(url, WIDE)
    films = "[...document.querySelectorAll('video')].map(video => {video.preload = 'auto'; return video.readyState})"
    wait_until(lambda: all(state >= 2 for state in tab.js(films)), HANG_S, "the first picture of each film")
    height = min(int(tab.js("document.documentElement.scrollHeight")), 1400)
    keep(tab, PICTURES / f"{name}.png", WIDE, height, scale=0.75)


def graph(place: Place, run: str, name: str) -> None:
    """Keep the page of a flow run in Prefect's UI, whose graph is drawn on a canvas."""
    base = place.server.url.removesuffix("/api")
    place.tab.visit(f"{base}/runs/flow-run/{run}", WIDE, "document.querySelector('canvas')")
    time.sleep(SETTLE_S)
    keep(place.tab, PICTURES / f"{name}.png", WIDE, 800, scale=0.75)


def keep(tab: Tab, target: Path, width: int, height: int, *, scale: float) -> None:
    """Write the upper part of a page as a PNG of 128 colours."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
    with Image.open(io.BytesIO(tab.picture(captureBeyondViewport=True, clip=clip))) as shot:
        shot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


if __name__ == "__main__":
    main()
