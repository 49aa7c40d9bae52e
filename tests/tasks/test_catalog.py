"""The registered tasks, as the simulator's Python tells of them: read once, and again when something has changed."""

import json
from dataclasses import replace

import click.testing
import pytest
import records
from scenario import play

from simyard.cli.main import main
from simyard.core.errors import RequestError
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.catalog import Catalog, chosen
from simyard.tasks.shared.task_sheet import UNKNOWN, sheet

pytestmark = pytest.mark.system


class Site:
    """A machine whose Python has the tasks of a scenario."""

    def __init__(self, folder, patch):
        self.root = folder / "assets"
        self.asked = folder / "asked"
        self.code = folder / "code"
        self.code.mkdir()
        self.machine = MachineSettings(home=folder / "home", store="", python=str(play.PYTHON))
        self.environment = {
            **play.ENVIRONMENT, "SIMYARD_HOME": str(self.machine.home), "PYTHONPATH": str(self.code),
            "SCENARIO_ASKED": str(self.asked), "SCENARIO_TASKS": json.dumps(self.tasks()),
        }  # fmt: skip
        for name, value in self.environment.items():
            patch.setenv(name, value)

    def tasks(self):
        engines = (("newton", []), ("physx", ["ovphysx"]))
        both = [{"name": name, "presets": [], "missing": missing} for name, missing in engines]
        agents = [
            {"library": name, "name": short, "key": f"{name}_{short}_cfg_entry_point", "installed": True}
            for name, short in (("rsl_rl", "default"), ("rsl_rl", "with_symmetry"), ("skrl", "ippo"))
        ]
        robot = "Isaac/IsaacLab/Robots/Unitree/Go2/go2.usd"
        return [
            records.task("Isaac-Cartpole-Direct"),
            records.task("Isaac-Ant", agents=agents, engines=both, kind="manager-based",
                         actions=[{"name": "joint_effort", "size": None}],
                         observations=[{"name": "policy", "size": None, "terms": [{"name": "speed", "size": None}]}]),
            records.task("Isaac-Velocity-Flat-UnitreeGo2", asset_root=str(self.root), assets=[
                {"path": robot, "here": False}, {"path": "Isaac/net.pt", "here": False}]),
            records.task("Isaac-\x1b[31mRed", why_not=["its configuration does not resolve: boom"], kind=None),
        ]  # fmt: skip

    def lines_asked(self):
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    def run(self, *arguments):
        return click.testing.CliRunner().invoke(main, ["tasks", *arguments])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield Site(tmp_path_factory.mktemp("site"), patch)


def test_tasks_are_read_once_and_again_when_code_changes_and_assets_are_looked_for_each_time(site):
    catalog = Catalog(site.machine)
    assert catalog.known() is None
    old = catalog.one("Isaac-Ant-v0")
    assert (old.task, old.former_ids, old.runnable) == ("Isaac-Ant", ("Isaac-Ant-v0",), True)
    assert len(site.lines_asked()) == 1
    assert catalog.known() is None, "of the others nothing is known yet"
    with pytest.raises(RequestError, match=r"Unknown task 'Isaac-Amt'\. Did you mean 'Isaac-Ant'\?") as refused:
        catalog.one("Isaac-Amt")
    assert refused.value.failure.code == "unknown_task"

    found = {facts.task: facts for facts in catalog.all()}
    assert list(found) == sorted(facts["task"] for facts in site.tasks())
    again = Catalog(site.machine).all()
    assert again == list(found.values())
    assert len(site.lines_asked()) == 2, "what is known is not asked again"

    # Files come without any change of code.
    go2 = found["Isaac-Velocity-Flat-UnitreeGo2"]
    assert not go2.runnable
    (reason,) = go2.why_not
    assert reason == (
        "not here: Isaac/IsaacLab/Robots/Unitree/Go2/go2.usd, Isaac/net.pt; `simyard assets build go2` makes and "
        "`simyard assets mirror Isaac-Velocity-Flat-UnitreeGo2` copies them"
    )
    for asset in go2.assets:
        (site.root / asset.path).parent.mkdir(parents=True, exist_ok=True)
        (site.root / asset.path).write_text("")
    go2 = catalog.one("Isaac-Velocity-Flat-UnitreeGo2")
    assert (go2.runnable, [asset.here for asset in go2.assets]) == (True, [True, True])
    assert len(site.lines_asked()) == 2

    # To measure asks again, once; and so does a new module.
    assert catalog.one("Isaac-Ant", measure=True).measured
    assert catalog.one("Isaac-Ant", measure=True).measured
    assert len(site.lines_asked()) == 3
    (site.code / "new.py").write_text("")
    assert catalog.known() is None
    for content in (b"", b"[1]", b'{"registered": ["A"], "tasks": {"A": 1}, "evidence": {}}'):
        catalog._path.write_bytes(content)
        assert catalog.known() is None


def test_the_command_filters_prints_plain_lines_and_json_and_refuses_what_it_does_not_know(site):
    shown = site.run("list")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["TASK", "KIND", "LIBRARIES", "AGENTS", "PHYSICS", "RUNS", "HERE"]
    assert "\x1b" not in shown.stdout
    assert "rsl_rl with_symmetry, skrl ippo  newton, physx  yes" in lines[2]
    assert "no: its configuration does not resolve: boom" in shown.stdout

    def listed(*arguments):
        result = site.run("list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [row["task"] for row in json.loads(result.stdout.splitlines()[-1])]

    assert len(listed()) == 4
    assert len(listed("--runnable")) == 3
    assert listed("--physics", "physx") == listed("--library", "skrl") == listed("ant-v0") == ["Isaac-Ant"]
    assert listed("nothing of this name") == []
    for arguments, said in (
        (["list", "--library", "skrll"], "'skrll'. Did you mean 'skrl'?"),
        (["list", "--physics", "bullet"], "Unknown physics engine 'bullet'"),
        (["show", "Isaac-Amt"], "Did you mean 'Isaac-Ant'?"),
        (["show", "Isaac-Ant", "--package", "no such folder"], "--package"),
    ):
        result = site.run(*arguments)
        assert (result.exit_code, said in result.stderr) == (2, True), result.output

    one = site.run("show", "Isaac-Ant")
    assert one.stdout.startswith("Isaac-Ant  runs here\n")
    for text in (
        "in Isaac Lab 2.x  Isaac-Ant-v0",
        "rsl_rl with_symmetry (rsl_rl_with_symmetry_cfg_entry_point)",
        "newton, the default here",
        "physx: needs ovphysx",
        f"policy: size {UNKNOWN} (speed ?)",
        "episode           5 s, 250 steps",
        "To know the rest now: simyard tasks show Isaac-Ant --measure",
    ):
        assert text in one.stdout
    assert json.loads(site.run("show", "Isaac-Ant", "--json").stdout)["former_ids"] == ["Isaac-Ant-v0"]


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("/no/such/python", "There is no Python '/no/such/python'"),
        ("/bin/false", "'/bin/false' ends the simulator's process"),
        (str(play.PYTHON), "Isaac Lab is not installed"),
    ],
)
def test_without_a_simulator_it_says_where_to_name_one(site, tmp_path, monkeypatch, python, said):
    monkeypatch.delenv("SCENARIO_TASKS")
    with pytest.raises(RequestError, match="SIMYARD_PYTHON") as refused:
        Catalog(replace(site.machine, home=tmp_path, python=python)).all()
    assert said in str(refused.value)
    assert refused.value.failure.code == "no_simulator"


def test_a_sheet_tells_what_is_measured_from_what_is_not(site):
    (ant,) = chosen(Catalog(site.machine).all(), physics="physx")
    assert sheet(ant)["success"] == [UNKNOWN]
    assert sheet(replace(ant, measured=True))["success"] == ["nothing says it"]
    assert sheet(replace(ant, success="termination success"))["success"] == ["said by: termination success"]
    assert sheet(replace(ant, num_envs=None))["environments"] == [UNKNOWN]
