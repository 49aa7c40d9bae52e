"""The base job templates of work pools, filled in by Prefect's own workers, and what engine and cluster make of it."""

import asyncio
import copy
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from helpers import Server
from lazy import lazy

from simyard.core.specs import JobSpec
from simyard.deployments import POOL_TYPES, pool_template
from simyard.store import keys

containers = lazy("docker.models.containers")
docker = lazy("docker")
kubernetes = lazy("kubernetes_asyncio.client")
objects = lazy("prefect.client.schemas.objects")
orchestration = lazy("prefect.client.orchestration")
apply = lazy("simyard.deployments.apply")
pool_launch = lazy("simyard.tasks.cluster.pool_launch")
prefect_settings = lazy("prefect.settings")
session = lazy("botocore.session")
validate = lazy("botocore.validate")

WORKERS = {
    "process": ("prefect.workers.process", "ProcessWorker"),
    "docker": ("prefect_docker.worker", "DockerWorker"),
    "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorker"),
    "ecs": ("prefect_aws.workers.ecs_worker", "ECSWorker"),
}
IMAGE = "registry.example.com/simyard-isaaclab:3.0"
ATTEMPT = {"gpu_count": "2"}
"""The job variables that an attempt is sent with."""
LABELS = {"prefect.io/flow-run-name": "job-01k-1"}
Fill = Callable[..., Any]


def worker_of(pool_type: str) -> Any:
    """Return the class of Prefect's worker for pools of a type."""
    module, name = WORKERS[pool_type]
    return getattr(import_module(module), name)


@pytest.fixture
def fill(prefect_server: Server) -> Fill:
    """Return the configuration that a worker makes of a pool, for the attempt of a job."""

    def make(pool_type: str, variables: dict[str, Any] | None = None, **attempt: Any) -> Any:
        plan = apply.PoolPlan(
            name="gpu", type=pool_type, image=None if pool_type == "process" else IMAGE, variables=variables or {}
        )

        async def with_client() -> Any:
            async with orchestration.get_client() as client:
                return await worker_of(pool_type).job_configuration.from_template_and_values(
                    plan.template(), {**ATTEMPT, **attempt}, client=client
                )

        with prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: prefect_server.url}):
            configuration = asyncio.run(with_client())
            configuration.prepare_for_flow_run(objects.FlowRun(flow_id=uuid.uuid4(), name="job-01k-1"))
        return configuration

    return make


# Of every type


def test_every_type_has_its_worker() -> None:
    assert set(WORKERS) == set(POOL_TYPES)
    assert {name: worker_of(name).type for name in WORKERS} == {name: name for name in POOL_TYPES}


def lacking(theirs: Any, ours: Any, path: str = "") -> set[str]:
    """Return what their template has and ours has not; what ours says otherwise does not count."""
    if isinstance(theirs, dict):
        if not isinstance(ours, dict):
            return {path}
        return {
            found
            for key, value in theirs.items()
            for found in (lacking(value, ours[key], f"{path}.{key}") if key in ours else {f"{path}.{key}"})
        }
    if isinstance(theirs, list) and theirs and isinstance(ours, list) and ours:
        return lacking(theirs[0], ours[0], f"{path}[0]")
    return set()


ELSEWHERE = {
    # Prefect has them in the pod, where Kubernetes knows no such fields; ours stand in the job.
    ".job_configuration.job_manifest.spec.template.spec.completions",
    ".job_configuration.job_manifest.spec.template.spec.parallelism",
    # Ours says what is in it.
    ".variables.properties.container_create_kwargs",
}


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_nothing_of_prefects_own_template_is_lost(pool_type: str) -> None:
    theirs = worker_of(pool_type).get_default_base_job_template()
    names = {part: theirs[part] for part in ("job_configuration",)}
    names["variables"] = {"properties": dict.fromkeys(theirs["variables"]["properties"])}
    assert lacking(names, pool_template(pool_type)) <= ELSEWHERE


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_every_variable_is_used_and_described_and_its_default_is_of_its_kind(pool_type: str) -> None:
    from jsonschema import Draft202012Validator

    template = pool_template(pool_type)
    variables = template["variables"]
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(variables["properties"])
    definitions = {key: variables[key] for key in ("$defs", "definitions") if key in variables}
    for name, schema in variables["properties"].items():
        assert schema.get("description") or schema.get("title") or "$ref" in json.dumps(schema), name
        if "default" in schema:
            Draft202012Validator({**schema, **definitions}).validate(schema["default"])


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_a_stock_template_holds_no_secret_and_accepts_no_licence(pool_type: str) -> None:
    template = pool_template(pool_type)
    assert "EULA" not in json.dumps(template).upper()
    secretive = re.compile("secret|password|token|credential|key", re.IGNORECASE)
    defaults = {
        name: schema.get("default")
        for name, schema in template["variables"]["properties"].items()
        if secretive.search(name)
    }
    assert not [name for name, default in defaults.items() if default], defaults
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|://[^/\s\"]+:[^/\s\"]+@", json.dumps(template))


@pytest.mark.parametrize("pool_type", POOL_TYPES)
def test_an_accepted_licence_and_other_variables_reach_the_attempt(fill: Fill, pool_type: str) -> None:
    configuration = fill(pool_type, {"env": {"SIMYARD_ACCEPT_NVIDIA_EULA": "on", "NCCL_SOCKET_IFNAME": "eth0"}})
    assert configuration.env["SIMYARD_ACCEPT_NVIDIA_EULA"] == "on"
    assert configuration.env["NCCL_SOCKET_IFNAME"] == "eth0"
    assert "PREFECT__FLOW_RUN_ID" in configuration.env, "and what Prefect itself sets is still there"


# A process


def test_a_process_starts_in_a_folder_of_its_own(fill: Fill) -> None:
    configuration = fill("process")
    assert configuration.working_dir is None, "Prefect copies the folder that it starts in: it makes an empty one"
    assert configuration.stream_output is True
    assert "prefect" in configuration.command


# Docker


def settings_of(configuration: Any) -> dict[str, Any]:
    """Return what the worker asks docker-py for."""
    configuration.env["PREFECT_API_URL"] = "https://prefect.example.com/api"  # of no engine's own network
    worker = worker_of("docker")(work_pool_name="gpu")
    client = docker.DockerClient(base_url="tcp://127.0.0.1:9", version="1.44")  # called by nobody
    return worker._build_container_settings(client, configuration)


def created(configuration: Any) -> dict[str, Any]:
    """Return what docker-py asks the engine for, its `HostConfig` in it."""
    settings = settings_of(configuration)
    asked = containers._create_container_args({**settings, "version": "1.44"})
    return dict(asked)


def test_docker_gives_a_container_gpus_memory_and_an_init(fill: Fill) -> None:
    asked = created(fill("docker"))
    host = asked["host_config"]
    (gpus,) = host["DeviceRequests"]
    assert (gpus["Driver"], gpus["Count"], gpus["Capabilities"]) == ("nvidia", -1, [["gpu"]])
    assert host["ShmSize"] == 16 * 1024**3
    assert host["Init"] is True
    assert [dict(limit) for limit in host["Ulimits"]] == [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    assert host["Binds"] == ["simyard-home:/var/lib/simyard"]
    assert not host.get("AutoRemove"), "what a dead container printed can be read afterwards"
    assert not host.get("Privileged")
    assert (asked["image"], asked["working_dir"]) == (IMAGE, "/run/simyard")
    assert not [key for key in ("EULA", "SECRET") if key in json.dumps(asked["environment"]).upper()]


def test_docker_takes_what_an_operator_says_instead(fill: Fill) -> None:
    gpus = [{"driver": "nvidia", "device_ids": ["1", "3"], "capabilities": [["gpu"]]}]
    variables = {
        "device_requests": gpus, "shm_size": "1g", "mem_limit": "64g", "ulimits": [], "network_mode": "host",
        "volumes": ["/data/kernels:/var/lib/simyard:rw"],
    }  # fmt: skip
    host = created(fill("docker", variables))["host_config"]
    assert (host["DeviceRequests"][0]["DeviceIDs"], host["DeviceRequests"][0]["Count"]) == (["1", "3"], 0)
    assert (host["ShmSize"], host["Memory"], host["NetworkMode"]) == (1024**3, 64 * 1024**3, "host")
    assert host["Binds"] == ["/data/kernels:/var/lib/simyard:rw"]
    assert not host.get("Ulimits")


# A home for each project


@pytest.mark.parametrize(
    ("pool_type", "volumes", "project", "variables"),
    [
        ("docker", None, "default", {}),
        ("docker", None, "lab", {"volumes": ["simyard-home-lab:/var/lib/simyard"]}),
        (
            "docker", ["/data:/data:ro", "kernels:/var/lib/simyard:rw"], "lab",
            {"volumes": ["/data:/data:ro", "kernels-lab:/var/lib/simyard:rw"]},
        ),
        ("docker", ["/data/kernels:/var/lib/simyard"], "lab", {}),
        ("docker", [], "lab", {}),
        ("kubernetes", None, "default", {"home_folder": "default"}),
        ("kubernetes", None, "lab", {"home_folder": "lab"}),
        ("ecs", None, "lab", {}),
        ("process", None, "lab", {}),
    ],
)  # fmt: skip
def test_an_attempt_is_sent_with_the_home_of_its_project(
    pool_type: str, volumes: list[str] | None, project: str, variables: dict[str, Any]
) -> None:
    plan = apply.PoolPlan(
        name="gpu", type=pool_type, image=None if pool_type == "process" else IMAGE,
        variables={} if volumes is None else {"volumes": volumes},
    )  # fmt: skip
    pool = objects.WorkPool(name="gpu", type=pool_type, base_job_template=plan.template())
    assert apply.own_home(pool, project) == variables
    assert apply.shares_home(pool) == (not apply.own_home(pool, "lab"))


def test_containers_of_two_projects_have_no_home_in_common(fill: Fill) -> None:
    template = pool_template("docker")
    pool = objects.WorkPool(name="gpu", type="docker", base_job_template=template)
    binds = [
        created(fill("docker", **apply.own_home(pool, name)))["host_config"]["Binds"] for name in ("default", "lab")
    ]
    assert binds == [["simyard-home:/var/lib/simyard"], ["simyard-home-lab:/var/lib/simyard"]]
    mounts = []
    for name in ("default", "lab"):
        pod = as_job(fill("kubernetes", home_folder=name).job_manifest)[0].spec.template.spec
        mounts += [mount.sub_path for mount in pod.containers[0].volume_mounts if mount.name == "home"]
    assert mounts == ["default", "lab"]


@pytest.mark.parametrize(("store", "volume"), [("s3://robots", None), ("s3://robots/projects/lab", "simyard-home-lab")])
def test_an_attempt_is_launched_in_the_home_of_its_project(
    prefect_server: Server, store: str, volume: str | None
) -> None:
    spec = JobSpec(
        job_id=keys.new_job_id(), kind="train", name="n", simulator="isaaclab", task="T", library="rsl_rl",
        num_envs=1, max_iterations=1, seed=1, gpus=None,
    )  # fmt: skip
    plan = apply.PoolPlan(name="homes", type="docker", image=IMAGE)
    with (
        prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: prefect_server.url}),
        orchestration.get_client(sync_client=True) as client,
    ):
        apply.apply_pool(client, plan, lambda what, change: None)
        (run,) = pool_launch._launch(client, spec, 1, store, "homes")
    assert run.job_variables == ({"volumes": [f"{volume}:/var/lib/simyard"]} if volume else None)


# Kubernetes


@dataclass(frozen=True)
class _Answer:
    """What Kubernetes' types are read from."""

    data: str


def as_job(manifest: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a manifest as Kubernetes' own types have it, and what is left of it when they write it again."""

    async def read() -> tuple[Any, dict[str, Any]]:
        async with kubernetes.ApiClient(kubernetes.Configuration(host="http://127.0.0.1:9")) as client:
            job = client.deserialize(_Answer(json.dumps(manifest)), "V1Job")
            return job, client.sanitize_for_serialization(job)

    return asyncio.run(read())


def test_kubernetes_gives_a_pod_gpus_memory_and_a_cache(fill: Fill) -> None:
    manifest = fill("kubernetes").job_manifest
    job, _ = as_job(manifest)
    pod = job.spec.template.spec
    (container,) = pod.containers
    assert container.resources.limits == {"nvidia.com/gpu": "2"}
    assert (container.image, container.working_dir) == (IMAGE, "/run/simyard")
    mounts = {mount.name: mount.mount_path for mount in container.volume_mounts}
    assert mounts == {"home": "/var/lib/simyard", "shm": "/dev/shm"}
    volumes = {volume.name: volume for volume in pod.volumes}
    assert (volumes["shm"].empty_dir.medium, volumes["shm"].empty_dir.size_limit) == ("Memory", "16Gi")
    assert volumes["home"].persistent_volume_claim.claim_name == "simyard-home"
    assert [mount.sub_path for mount in container.volume_mounts] == ["default", None]
    (toleration,) = pod.tolerations
    assert (toleration.key, toleration.operator, toleration.effect) == ("nvidia.com/gpu", "Exists", "NoSchedule")
    assert (job.spec.backoff_limit, job.spec.ttl_seconds_after_finished) == (0, 3600)
    assert (job.spec.completions, job.spec.parallelism) == (1, 1)
    assert (pod.termination_grace_period_seconds, pod.restart_policy) == (60, "Never")
    assert (pod.security_context.run_as_user, pod.security_context.fs_group) == (1000, 1000)


def without_nothing(node: Any) -> Any:
    """Return a document without its nulls and its empty parts, which Kubernetes takes for absent."""
    if isinstance(node, dict):
        kept = {key: without_nothing(value) for key, value in node.items()}
        return {key: value for key, value in kept.items() if value not in (None, {}, [])}
    return [without_nothing(item) for item in node] if isinstance(node, list) else node


FULL = {
    "namespace": "simyard", "service_account_name": "simyard-attempt", "priority_class_name": "simyard",
    "cpu_request": "8", "cpu_limit": "16", "memory_request": "32Gi", "memory_limit": "64Gi", "user": 0,
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}, "pull_secrets": [{"name": "registry"}],
    "home_claim": "home-l40s", "shm_size": "8Gi", "grace_seconds": 30, "finished_job_ttl": None,
    "annotations": {"who": "lab"},
}  # fmt: skip


@pytest.mark.parametrize("variables", [{}, FULL], ids=["stock", "all that an operator may say"])
def test_kubernetes_knows_every_field_of_the_manifest(fill: Fill, variables: dict[str, Any]) -> None:
    manifest = fill("kubernetes", variables).job_manifest
    # Its types drop what they do not know, and refuse what is of another kind: so nothing may be missing afterwards.
    _, written = as_job(manifest)
    assert without_nothing(written) == without_nothing(manifest)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed(fill: Fill) -> None:
    manifest = copy.deepcopy(fill("kubernetes").job_manifest)
    manifest["spec"]["template"]["spec"]["completions"] = 1
    _, written = as_job(manifest)
    assert without_nothing(written) != without_nothing(manifest)


def test_kubernetes_takes_what_an_operator_says(fill: Fill) -> None:
    job, _ = as_job(fill("kubernetes", FULL).job_manifest)
    pod = job.spec.template.spec
    resources = pod.containers[0].resources
    assert resources.limits == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert resources.requests == {"cpu": "8", "memory": "32Gi"}
    assert (pod.priority_class_name, pod.service_account_name) == ("simyard", "simyard-attempt")
    assert pod.node_selector == {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    assert [secret.name for secret in pod.image_pull_secrets] == ["registry"]
    assert (job.metadata.namespace, pod.security_context.run_as_user) == ("simyard", 0)
    assert job.spec.ttl_seconds_after_finished is None


def test_a_pod_of_a_job_on_the_cpu_asks_for_no_gpu(fill: Fill) -> None:
    job, _ = as_job(fill("kubernetes", gpu_count="0").job_manifest)
    assert job.spec.template.spec.containers[0].resources.limits == {"nvidia.com/gpu": "0"}


# ECS


def ecs_requests(configuration: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the worker sends to register the task definition, and to run it."""
    worker = worker_of("ecs")(work_pool_name="gpu")
    run = objects.FlowRun(flow_id=uuid.uuid4(), name="job-01k-1")
    definition = worker._prepare_task_definition(configuration, "eu-central-1", run)
    arn = "arn:aws:ecs:eu-central-1:111122223333:task-definition/simyard:1"
    request = worker._prepare_task_run_request(configuration, definition, arn, True)
    return definition, request


def problems(operation: str, parameters: dict[str, Any]) -> str:
    """Return what AWS's own description of the operation says against the parameters."""
    shape = session.get_session().get_service_model("ecs").operation_model(operation).input_shape
    return str(validate.ParamValidator().validate(parameters, shape).generate_report())


ROLES = {
    "task_role_arn": "arn:aws:iam::111122223333:role/simyard-task",
    "execution_role_arn": "arn:aws:iam::111122223333:role/simyard-execution",
}
ON_A_CLUSTER = {
    "cluster": "simyard",
    "capacity_provider_strategy": [{"capacityProvider": "gpu", "weight": 1, "base": 0}],
    "configure_cloudwatch_logs": True,
    "env": {"AWS_REGION": "eu-central-1"},
    "prefect_api_auth_string_secret_arn": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:prefect",
    **ROLES,
}


@pytest.mark.parametrize("variables", [{}, ROLES, ON_A_CLUSTER], ids=["stock", "with roles", "on a cluster"])
def test_aws_accepts_what_the_worker_sends(fill: Fill, variables: dict[str, Any]) -> None:
    definition, request = ecs_requests(fill("ecs", variables))
    assert problems("RegisterTaskDefinition", definition) == ""
    assert problems("RunTask", request) == ""
    assert "SIMYARD_ACCEPT" not in json.dumps([definition, request])


def test_aws_would_say_what_is_wrong(fill: Fill) -> None:
    definition, _ = ecs_requests(fill("ecs"))
    definition["containerDefinitions"][0]["resourceRequirements"] = [{"type": "GPU", "value": 2}]
    definition["shm"] = 1
    found = problems("RegisterTaskDefinition", definition)
    assert 'Unknown parameter in input: "shm"' in found
    assert "resourceRequirements[0].value" in found


def test_ecs_gives_a_task_gpus_memory_and_a_cache(fill: Fill) -> None:
    definition, request = ecs_requests(fill("ecs", ON_A_CLUSTER))
    (container,) = definition["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "2"}]
    assert container["linuxParameters"] == {"initProcessEnabled": True, "sharedMemorySize": 16384}
    assert container["mountPoints"] == [{"sourceVolume": "home", "containerPath": "/var/lib/simyard"}]
    assert definition["volumes"] == [{"name": "home", "host": {"sourcePath": "/var/lib/simyard"}}]
    assert (container["image"], container["workingDirectory"]) == (IMAGE, "/run/simyard")
    assert container["stopTimeout"] == 60
    assert definition["requiresCompatibilities"] == ["EC2"]
    assert "networkMode" not in definition, "awsvpc is Fargate's, which has no GPUs"
    assert "ephemeralStorage" not in definition, "that is Fargate's too"
    assert (definition["cpu"], definition["memory"]) == ("4096", "30720")
    assert definition["executionRoleArn"] == ROLES["execution_role_arn"]

    assert request["cluster"] == "simyard"
    assert request["capacityProviderStrategy"] == ON_A_CLUSTER["capacity_provider_strategy"]
    assert "launchType" not in request, "AWS refuses it beside a capacity provider"
    overrides = request["overrides"]
    assert overrides["taskRoleArn"] == ROLES["task_role_arn"]
    (override,) = overrides["containerOverrides"]
    assert override["name"] == container["name"] == "simyard"
    assert {"name": "AWS_REGION", "value": "eu-central-1"} in override["environment"]
    assert "prefect" in " ".join(override["command"])


def test_without_a_capacity_provider_a_task_runs_on_ec2(fill: Fill) -> None:
    _, request = ecs_requests(fill("ecs", {"cluster": "simyard"}))
    assert request["launchType"] == "EC2"
    assert not request.get("capacityProviderStrategy")
