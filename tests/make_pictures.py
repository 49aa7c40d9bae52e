"""Make the pictures of the documents: `make pictures`. A training, its evaluation and its page, in the real simulator.

They show what a reader gets: curves as the job leaves them, a film as GIF, and pages in Chromium.
"""

import base64
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS / "service")]

import imageio_ffmpeg  # noqa: E402
from browser import Tab, browsing  # noqa: E402
from helpers import SIMYARD, serving_prefect  # noqa: E402
from serving import Service, site  # noqa: E402

from simyard.core.records import JobResult  # noqa: E402
from simyard.store import keys  # noqa: E402
from simyard.store.keys import JobKeys  # noqa: E402
from simyard.store.store import Store  # noqa: E402

ROOT = TESTS.parent
PICTURES = ROOT / "docs" / "pictures"
EXAMPLES = [f"examples/cartpole-{what}-config.json" for what in ("training", "evaluation", "export")]
WIDE, NARROW = 1440, 390
"""Pixels of a window."""


def main() -> None:
    """Make all of them, in a folder that goes afterwards."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # The last film tells most where the policy is good: the longest.
        command = [SIMYARD, "run", *EXAMPLES, "--store", str(folder / "store")]
        subprocess.run(command, cwd=ROOT, check=True)
        store = Store.open(str(folder / "store"))
        jobs = {}
        for job_id in store.list_dirs(keys.JOBS):
            result = store.get_record(JobKeys(job_id).result, JobResult)
            jobs[result.kind] = result
        trained, evaluated = jobs["train"], jobs["evaluate"]
        store.get_file(JobKeys(trained.job_id).artifact("curves.png"), PICTURES / "curves.png")
        film = next(one.name for one in evaluated.artifacts if one.name.endswith(".mp4"))
        store.get_file(JobKeys(evaluated.job_id).artifact(film), folder / "film.mp4")
        as_gif(folder / "film.mp4", PICTURES / "film.gif")
        with served(folder) as (service, tab):
            key = service.key()
            for job_id, name in ((trained.job_id, "job-page"), (evaluated.job_id, "evaluation-page")):
                url = service.call("GET", f"/v0/jobs/{job_id}", key=key).json["page_url"]
                picture(tab, url, PICTURES / f"{name}.png", WIDE)
            picture(tab, url, PICTURES / "phone.png", NARROW, dark=True)
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


def as_gif(film: Path, target: Path) -> None:
    """Write the first seconds of a film as a small GIF with a palette of its own."""
    shown = "fps=12,scale=400:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=64[p];[b][p]paletteuse=dither=none"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-loglevel", "error", "-y", "-t", "5", "-i", film, "-vf", shown, target], check=True)


@contextmanager
def served(folder: Path) -> Iterator[tuple[Service, Tab]]:
    """Yield the service of the store, and a tab of a browser."""
    home, profile = folder / "server", folder / "browser"
    home.mkdir()
    profile.mkdir()
    with serving_prefect(home) as server:
        service = site(folder, server)
        service.start()
        try:
            with browsing(profile) as tab:
                yield service, tab
        finally:
            service.stop()


def picture(tab: Tab, url: str, target: Path, width: int, *, dark: bool = False) -> None:
    """Keep the first screens of a page."""
    tab.open(url, width, dark=dark)
    height = min(int(tab.js("document.documentElement.scrollHeight")), 1400)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1 if width < 600 else 0.75}
    shot = tab("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    target.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()
