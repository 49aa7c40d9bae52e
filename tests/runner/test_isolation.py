"""What a job changes of its process is put back, and what cannot be put back is told.

Jobs change global state, so they are played in child processes, never in pytest's own.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers import HANG_S

SCENARIO = Path(__file__).parents[1] / "scenario"
PREAMBLE = """
import json, logging, os, sys, threading, time, traceback, warnings
from pathlib import Path

from simyard.runner.isolation import MAX_DESCRIPTORS, Isolation
from simyard.runner.imported import LoadedCode

folder = Path(sys.argv[1])
says = os.fdopen(os.dup(1), "w")
sys.path.insert(0, str(folder))
isolation = Isolation()


def say(**found):
    says.write(json.dumps(found))
    says.flush()
    os._exit(0)


"""


def play(folder, script):
    """Run a script in a process of its own; return what it says."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCENARIO), "PYTHONDONTWRITEBYTECODE": "1"}
    body = textwrap.indent(textwrap.dedent(script), "    ")
    guarded = f"{PREAMBLE}try:\n{body}\nexcept Exception:\n    sys.__stderr__.write(traceback.format_exc())\n"
    done = subprocess.run(
        [sys.executable, "-c", guarded, str(folder)],
        env=env, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


LITTERED = [
    "environ", "path", "argv", "umask", "recursion limit", "signals", "timer", "collects garbage", "warnings", "hooks",
    "shows warnings with", "root logger", "logger", "logging", "numpy", "torch",
]  # fmt: skip


@pytest.fixture(scope="module")
def littered(tmp_path_factory):
    """What a job sees before, during and after one that changes everything, in one process."""
    return play(
        tmp_path_factory.mktemp("littered"),
        """
        import litter, torch, gymnasium, hydra
        from hydra.core.global_hydra import GlobalHydra

        logging.getLogger(litter.LOGGER)
        for name in ("Changed-v0", "Removed-v0"):
            gymnasium.register(name, entry_point="nowhere:before")
        isolation.begin()
        before, drawn, streams = litter.look(), litter.draw(), (sys.stdin, sys.stdout, sys.stderr)
        place = os.getcwd()
        (folder / "litter").mkdir()
        litter.litter(folder / "litter")
        gymnasium.registry["Changed-v0"] = gymnasium.envs.registration.EnvSpec("Changed-v0", "nowhere:after")
        del gymnasium.registry["Removed-v0"]
        gymnasium.register("Added-v0", entry_point="nowhere:after")
        hydra.initialize_config_dir(str(folder), version_base=None)
        assert GlobalHydra.instance().is_initialized()
        during, elsewhere = litter.look(), os.getcwd()
        isolation.end()
        after, drawn_again = litter.look(), litter.draw()
        import gc
        gc.collect()
        say(
            before=before, during=during, after=after, drawn=drawn, drawn_again=drawn_again,
            moved=elsewhere != place, place=place == os.getcwd(),
            streams=all(one is other for one, other in zip(streams, (sys.stdin, sys.stdout, sys.stderr))),
            open_files=[os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()],
            tasks={name: gymnasium.registry[name].entry_point for name in gymnasium.registry if "nowhere" in
                   str(gymnasium.registry[name].entry_point)},
            hydra=GlobalHydra.instance().is_initialized(),
        )
        """,
    )


@pytest.mark.parametrize("what", LITTERED)
def test_what_a_job_changes_is_put_back(littered, what):
    assert littered["during"][what] != littered["before"][what]
    assert littered["after"][what] == littered["before"][what]


def test_every_setting_of_torch_was_changed_and_put_back(littered):
    changed = {
        name for name, value in littered["before"]["torch"].items() if littered["during"]["torch"][name] != value
    }
    assert changed == set(littered["before"]["torch"])
    assert littered["after"]["torch"] == littered["before"]["torch"]


def test_everything_else_that_a_job_sees_is_as_before(littered):
    assert littered["after"] == littered["before"]
    assert littered["drawn_again"] == littered["drawn"], "random generators go on where they were"
    assert (littered["moved"], littered["place"], littered["streams"]) == (True, True, True)
    assert [path for path in littered["open_files"] if path.endswith(".log")] == [], "files of log handlers"
    assert littered["hydra"] is False


def test_registered_tasks_are_put_back_and_added_ones_stay(littered):
    assert littered["tasks"] == {
        "Changed-v0": "nowhere:before", "Removed-v0": "nowhere:before", "Added-v0": "nowhere:after",
    }  # fmt: skip


def test_what_no_job_imported_is_not_imported(tmp_path):
    found = play(
        tmp_path,
        """
        isolation.begin()
        isolation.end()
        left = isolation.left_over()
        say(left=left, imported=[name for name in ("torch", "numpy", "gymnasium", "hydra") if name in sys.modules])
        """,
    )
    assert (found["left"], found["imported"]) == (None, [])


def test_a_warning_that_one_job_was_shown_is_shown_to_the_next(tmp_path):
    (tmp_path / "deprecated.py").write_text("import warnings\n\ndef use():\n    warnings.warn('this is old')\n")
    found = play(
        tmp_path,
        """
        import deprecated

        for _ in range(2):
            isolation.begin()
            deprecated.use()
            deprecated.use()
            isolation.end()
        say()
        """,
    )
    assert found["stderr"].count("UserWarning: this is old") == 2


def test_log_handlers_that_an_import_brought_stay_but_for_files(tmp_path):
    found = play(
        tmp_path,
        """
        isolation.begin()
        logger = logging.getLogger("imported.by.the.job")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(logging.StreamHandler())
        logger.addHandler(logging.FileHandler(folder / "job.log"))
        isolation.end()
        say(handlers=[type(handler).__name__ for handler in logger.handlers], level=logger.level)
        """,
    )
    assert found["handlers"] == ["StreamHandler"]
    assert found["level"] == 10


def test_the_users_modules_are_forgotten_and_others_stay(tmp_path):
    for name in ("overlay/theirs", "overlay/theirs/deep", "callback_package", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("import time\nSTATE = [time.time_ns()]\n")
    (tmp_path / "callback_package" / "register.py").write_text("")
    (tmp_path / "overlay-of-another-job").mkdir()
    (tmp_path / "overlay-of-another-job" / "similar.py").write_text("")
    found = play(
        tmp_path,
        """
        import elsewhere

        def state():
            return [theirs.STATE[0], theirs.deep.STATE[0], callback_package.STATE[0]]

        before = elsewhere.STATE
        states = []
        for job in range(2):
            isolation.begin()
            sys.path[:0] = [str(folder / "overlay"), str(folder / "overlay-of-another-job")]
            import callback_package.register, similar, theirs.deep, wave
            states.append(state())
            isolation.end(folder / "overlay", "callback_package")
            names = ("theirs", "theirs.deep", "callback_package", "callback_package.register", "similar", "wave")
            left = [name for name in names if name in sys.modules]
        say(states=states, left=left, stays=sys.modules["elsewhere"].STATE is before)
        """,
    )
    first, second = found["states"]
    assert all(one != other for one, other in zip(first, second, strict=True))
    assert found["left"] == ["similar", "wave"]
    assert found["stays"]


LEFT = [
    pytest.param(
        "threading.Thread(target=time.sleep, args=(60,), name='never ends', daemon=True).start()",
        "the job left a thread running: 'never ends'",
        id="a thread",
    ),
    pytest.param("threading.Thread(target=time.sleep, args=(0.3,)).start()", None, id="a thread that is about to end"),
    pytest.param("subprocess.Popen(['sleep', '60'])", "the job left a process running: ", id="a process"),
    pytest.param(
        "threading.Thread(target=lambda: subprocess.Popen(['sleep', '60'])).start()",
        "the job left a process running: ",
        id="a process of another thread",
    ),
    pytest.param(
        "subprocess.run(['sh', '-c', 'setsid sleep 60 >/dev/null 2>&1 & true'])",
        "the job left a process running: ",
        id="a process that left the family",
    ),
    pytest.param("subprocess.Popen(['true'])", None, id="a process that has ended"),
    pytest.param("files += [open('/dev/null') for _ in range(40)]", None, id="some open files"),
    pytest.param(
        "files += [open('/dev/null') for _ in range(MAX_DESCRIPTORS + 10)]",
        "jobs left 7",
        id="many open files",
    ),
    pytest.param(
        "files += [open('/dev/null') for _ in range(MAX_DESCRIPTORS + 10)]; files.clear()", None, id="files closed"
    ),
    pytest.param("import tqdm; files += [tqdm.tqdm(range(3))]", None, id="the thread that looks after progress bars"),
]


@pytest.mark.parametrize(("job", "left"), LEFT)
def test_what_cannot_be_put_back_is_told(tmp_path, job, left):
    found = play(
        tmp_path,
        f"""
        import subprocess, uuid
        from simyard.runner.workload import TOKEN, kill_family

        os.environ[TOKEN] = token = uuid.uuid4().hex
        files = []
        said = []
        for job in ("pass", {job!r}):
            isolation.begin()
            exec(job)
            isolation.end()
            time.sleep(0.2)
            said.append(isolation.left_over())
        threads = [type(thread).__name__ for thread in threading.enumerate()]
        kill_family(token)
        say(said=said, threads=threads)
        """,
    )
    before, after = found["said"]
    assert before is None
    if left is None:
        assert after is None
    else:
        assert after.startswith(left)
    if "tqdm" in job:
        assert "TMonitor" in found["threads"]


def test_a_thread_from_before_the_job_is_none_of_its_business(tmp_path):
    found = play(
        tmp_path,
        """
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        isolation.begin()
        isolation.end()
        say(left=isolation.left_over())
        """,
    )
    assert found["left"] is None


def test_objects_with_a_jobs_memory_are_freed_or_told(tmp_path):
    """An engine keeps them in a cache on a method; a job may keep them anywhere."""
    (tmp_path / "engine.py").write_text(
        textwrap.dedent(
            """
            import functools, gymnasium, warp

            warp.config.quiet = True

            class Env(gymnasium.Env):
                def __init__(self):
                    self.arrays = [warp.zeros(8, device="cpu") for _ in range(100)]

                @functools.lru_cache(maxsize=None)
                def view(self, name):
                    return self.arrays[0][2:]

                @staticmethod
                @functools.cache
                def kernel(size):
                    return object()
            """
        )
    )
    found = play(
        tmp_path,
        """
        import engine, warp

        kept, said, kernels = [], [], []
        for job in (
            "pass", "engine.Env().view('a')", "kept += engine.Env().arrays[:50]", "kept.append(engine.Env())",
            "kept.clear()", "kept += engine.Env().arrays",
        ):
            isolation.begin()
            exec(job)
            kernels.append(engine.Env.kernel(1))
            isolation.end()
            said.append(isolation.left_over())
        say(said=said, kernels=len(set(map(id, kernels))))
        """,
    )
    left = "the job left objects of the simulator: "
    assert found["said"] == [None, None, None, f"{left}1 of Env, 150 of array", None, f"{left}100 of array"]
    assert found["kernels"] == 1, "what a class keeps without its objects stays"


CHANGES = [
    pytest.param("pass", False, id="untouched"),
    pytest.param("file.write_text('VALUE = 22')", True, id="edited"),
    pytest.param("file.write_text('VALUE = 2'); os.utime(file, ns=(1, 1))", True, id="edited, of the same size"),
    pytest.param("os.utime(file, ns=(1, 1))", True, id="touched"),
    pytest.param("file.unlink()", True, id="deleted"),
    pytest.param("file.unlink(); del sys.modules['code']; code.remember()", False, id="dropped before"),
    pytest.param("(folder / 'beside.py').write_text('')", False, id="another file"),
]


@pytest.mark.parametrize("imported", [pytest.param("first", id="ahead"), pytest.param("later", id="later")])
@pytest.mark.parametrize(("change", "shows"), CHANGES)
def test_a_change_of_loaded_code_shows(tmp_path, imported, change, shows):
    (tmp_path / "mine.py").write_text("VALUE = 1")
    change = change.replace("'code'", "'mine'")
    first, later = ("import mine", "pass") if imported == "first" else ("pass", "import mine")
    found = play(
        tmp_path,
        f"""
        file = folder / "mine.py"
        {first}
        code = LoadedCode()
        {later}
        code.remember()
        before = code.changed()
        {change}
        say(before=before, after=code.changed())
        """,
    )
    assert found["before"] is None
    assert found["after"] == (str(tmp_path / "mine.py") if shows else None)


def test_remembering_again_does_not_hide_a_change(tmp_path):
    (tmp_path / "mine.py").write_text("VALUE = 1")
    found = play(
        tmp_path,
        """
        import mine

        code = LoadedCode()
        (folder / "mine.py").write_text("VALUE = 2 + 2")
        code.remember()
        say(changed=code.changed())
        """,
    )
    assert found["changed"] == str(tmp_path / "mine.py")


def test_a_process_that_becomes_another_program_is_still_of_its_family(tmp_path):
    """In the middle of execve(2) it has no environment to be known by."""
    from simyard.runner.workload import TOKEN, has_token

    again = tmp_path / "again"
    again.write_text('#!/bin/sh\nexec "$0"\n')
    again.chmod(0o755)
    with subprocess.Popen([again], env={TOKEN: "becoming"}) as process:
        try:
            assert sum(not has_token(process.pid, "becoming") for _ in range(2000)) == 0
        finally:
            process.kill()
