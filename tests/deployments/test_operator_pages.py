"""The pages for operators: their commands are understood, their pools can be made, their documents can be read."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from helpers import HANG_S
from lazy import lazy

from simyard.cli.main import main

apply = lazy("simyard.deployments.apply")

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("images", "gpu-box", "aws", "kubernetes")
}
TEXT = "\n".join(PAGES.values())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Return simyard's commands, those that compose runs in a container too."""
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks("console"))).splitlines()
    shown = [line.removeprefix("$ ").partition("  #")[0] for line in lines]
    found = [re.search(r"(?:^| (?:gpu|api) | simyard-isaaclab:\S+ )simyard (.*)", line) for line in shown]
    return [shlex.split(match[1]) for match in found if match]


def parsed(words: list[str]) -> click.Context:
    command: click.Command = main
    words = list(words)
    name = "simyard"
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.commands[name]
    return command.make_context(name, words)  # raises on an option or an argument that does not exist


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_commands_are_understood(words: list[str]) -> None:
    parsed(words)


def test_every_kind_of_containers_has_its_pool_on_a_page() -> None:
    types = set()
    for words in commands():
        if words[0] == "deploy" and (given := parsed(words).params)["pool"]:
            pairs = (setting.split("=", 1) for setting in given["settings"])
            variables = {name: _value(text) for name, text in pairs}
            plan = apply.PoolPlan(
                name=given["pool"], type=given["pool_type"], image=given["image"], variables=variables
            )
            plan.template()  # raises on a variable that the pool has not, or a value that is not of its kind
            types.add(given["pool_type"])
    assert types == {"docker", "ecs", "kubernetes"}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def cluster() -> dict[str, Any]:
    """Return the template of the cluster; of a tag such as `!Ref` its value."""

    class Loader(yaml.SafeLoader):
        pass

    def plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
        made = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
        return made[type(node)](node)

    Loader.add_multi_constructor("!", plain)
    found: dict[str, Any] = yaml.load((ROOT / "deployments/ecs-cluster.yaml").read_text(encoding="utf-8"), Loader)
    return found


def test_the_page_of_aws_sets_what_the_cluster_has() -> None:
    template, page = cluster(), PAGES["aws"]
    lines = re.sub(r"\\\n\s*", " ", page)
    given = [
        pair.partition("=")[0] for line in re.findall(r"--parameter-overrides (.+)", lines) for pair in line.split()
    ]
    shown = re.findall(r"^\| `(\w+)=", page, re.MULTILINE)
    assert {"WarmInstances", "StoppedInstances", "ImageParameter"} <= set(given) | set(shown)
    assert {*given, *shown} <= set(template["Parameters"])
    data = json.loads((ROOT / "deployments/instances.json").read_text(encoding="utf-8"))
    assert template["Parameters"]["InstanceType"]["Default"] in {row["name"] for row in data["instances"]}
    script = template["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    assert {name for name in re.findall(r"`(ECS_\w+)", page)} <= set(re.findall(r"ECS_\w+", script))


@pytest.mark.long  # the linter reads AWS's whole schema
def test_the_cluster_is_a_template_that_aws_understands() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), ROOT / "deployments/ecs-cluster.yaml"],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("block", blocks("json"))
def test_policies_can_be_read(block: str) -> None:
    statements = json.loads(block)["Statement"]
    assert all({"Effect", "Action", "Resource"} <= set(statement) for statement in statements)


def test_manifests_can_be_read() -> None:
    documents = [document for block in blocks("yaml") for document in yaml.safe_load_all(block)]
    kinds = {document["kind"] for document in documents if "kind" in document}
    assert {"Namespace", "ServiceAccount", "PersistentVolumeClaim", "Role", "RoleBinding", "PriorityClass"} <= kinds


def test_the_claim_and_the_folder_are_those_of_the_pools() -> None:
    claims = [
        document
        for block in blocks("yaml")
        for document in yaml.safe_load_all(block)
        if document.get("kind") == "PersistentVolumeClaim"
    ]
    template = json.loads((ROOT / "deployments/pools/kubernetes.json").read_text())["variables"]["properties"]
    assert [claim["metadata"]["name"] for claim in claims] == [template["home_claim"]["default"]]
    pools = [(ROOT / f"deployments/pools/{name}.json").read_text() for name in ("docker", "kubernetes", "ecs")]
    assert all("/var/lib/simyard" in pool for pool in pools)


def test_the_page_of_the_images_has_every_folder_and_every_cache() -> None:
    folders = {path.parent.name for path in (ROOT / "deployments/images").glob("*/Dockerfile")}
    rows = set(re.findall(r"^\| `([\w.-]+)` \| `[\w./:-]+:[\w.-]+`", PAGES["images"], re.MULTILINE))
    assert rows == folders
    named = set(re.findall(r"`(cache/[\w-]+)`", PAGES["images"]))
    start = (ROOT / "deployments/images/start.sh").read_text()
    dockerfile = (ROOT / "deployments/images/isaaclab-3.0/Dockerfile").read_text()
    made = set(re.findall(r"SIMYARD_HOME/(cache/[\w-]+)", start)) | set(
        re.findall(r"simyard/(cache/[\w-]+)", dockerfile)
    )
    assert named - {"cache/assets"} == made
