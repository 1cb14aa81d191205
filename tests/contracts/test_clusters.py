"""The cluster files agree with each other, with the product and with those who will read them.

Readers are Ray's own schema, Kubernetes' own schemas, and for KubeRay's part of them, of which no
schema is at hand, the fields that its reference lists. What AWS makes of them is in test_aws.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.on_ray import _SETTINGS as TRAIN_ENVIRONMENT
from mbti_ray.on_ray.serve.haproxy import CLIENT_TIMEOUT, FAST_PATH, PRIVATE_FILES

pytestmark = pytest.mark.contracts

ROOT = Path(__file__).parents[2]
NODE = ROOT / "clusters/node"
CLOUDS = ("cluster.yaml", "clusters/gcp.yaml")
LAUNCHED = (*CLOUDS, "clusters/local.yaml")
KUBERAY = {
    "raycluster": lambda tree: tree["spec"],
    "rayjob": lambda tree: tree["spec"]["rayClusterSpec"],
    "rayservice": lambda tree: tree["spec"]["rayClusterConfig"],
}


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / name).read_text("utf-8")))


SETTINGS = read("clusters/settings.yaml")
KUBE_CLUSTER = KUBERAY["raycluster"](read("clusters/kuberay/raycluster.yaml"))


def starts(tree: dict[str, Any]) -> list[str]:
    """The commands that start Ray, on the head and on a worker."""
    kinds = ("head_start_ray_commands", "worker_start_ray_commands")
    return [next(c for c in tree[kind] if "ray start" in c) for kind in kinds]


def option(command: str, name: str) -> str:
    return re.search(rf"--{name}=(\S+)", command)[1]  # type: ignore[index]


# --- One source of settings


def test_every_shell_of_a_node_has_the_environment_of_the_settings(tmp_path: Path) -> None:
    line = f"source {NODE}/environment.sh; env"
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    said = subprocess.run(
        ["bash", "-c", line], env=clean, capture_output=True, text=True, check=True
    ).stdout
    found = dict(text.split("=", 1) for text in said.splitlines())
    assert {name: found.get(name) for name in SETTINGS["environment"]} == SETTINGS["environment"]
    assert found["PATH"].startswith(f"{tmp_path}/venv/bin:")
    # HAProxy's admin socket has mode 666; other users of the node must not reach it.
    for name, file in PRIVATE_FILES.items():
        assert found[name] == f"{tmp_path}/.haproxy/{file}"
    assert (tmp_path / ".haproxy").stat().st_mode & 0o777 == 0o700


def test_the_environment_is_that_of_the_commands_on_a_laptop() -> None:
    assert SETTINGS["environment"].items() >= FAST_PATH.items()
    assert int(SETTINGS["environment"][CLIENT_TIMEOUT]) == ServeConfig().deadline_s + 5
    name = "RAY_TRAIN_ENABLE_STATE_TRACKING"
    assert SETTINGS["environment"][name] == TRAIN_ENVIRONMENT[name]


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_starts_with_the_environment_and_the_ports_of_the_settings(name: str) -> None:
    head, worker = starts(read(name))
    ports = SETTINGS["ports"]
    for command in (head, worker):
        assert command.startswith("source ~/cluster/node/environment.sh;")
        assert option(command, "metrics-export-port") == str(ports["metrics"])
    assert option(head, "port") == str(ports["gcs"])
    assert option(head, "dashboard-port") == str(ports["dashboard"])
    assert option(head, "dashboard-host") == "127.0.0.1"
    assert option(head, "num-cpus") == str(SETTINGS["head_cpus"])
    assert option(worker, "address") == f"$RAY_HEAD_IP:{ports['gcs']}"


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_has_the_kinds_and_the_limits_of_the_settings(name: str) -> None:
    tree = read(name)
    assert tree["max_workers"] == SETTINGS["max_workers"]
    assert tree["idle_timeout_minutes"] == SETTINGS["idle_timeout_minutes"]
    kinds = tree["available_node_types"]
    head = kinds.pop(tree["head_node_type"])
    assert head["resources"] == {"CPU": SETTINGS["head_cpus"]}
    assert kinds.keys() == SETTINGS["workers"].keys()
    for kind, wanted in SETTINGS["workers"].items():
        assert (kinds[kind]["min_workers"], kinds[kind]["max_workers"]) == (0, wanted["most"])
        market = "spot" if wanted["is_spot"] else "on-demand"
        assert kinds[kind]["labels"] == {"ray.io/market-type": market}
        assert (kinds[kind].get("priority", 0) > 0) == wanted["is_spot"]
    # From none to as many as are wanted in one go.
    assert tree["upscaling_speed"] >= tree["max_workers"]


def test_the_launcher_files_differ_only_where_clouds_do() -> None:
    aws, gcp, local = (read(name) for name in LAUNCHED)
    assert starts(aws) == starts(gcp)
    # See local.yaml for why it has another autoscaler.
    assert [c.replace("RAY_enable_autoscaler_v2=0 ", "") for c in starts(local)] == starts(aws)
    for key in ("cluster_name", "file_mounts", "setup_commands"):
        assert aws[key] == gcp[key] == local[key]
    assert aws["worker_start_ray_commands"] == gcp["worker_start_ray_commands"]
    assert "leave_on_notice.sh" in aws["worker_start_ray_commands"][-1]


def test_kuberay_has_the_settings() -> None:
    spec, environment = KUBE_CLUSTER, dict(SETTINGS["environment"])
    assert spec["authOptions"]["mode"] == environment.pop("RAY_AUTH_MODE")
    assert spec["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * SETTINGS["idle_timeout_minutes"]
    head, ports = spec["headGroupSpec"]["rayStartParams"], SETTINGS["ports"]
    assert head["num-cpus"] == str(SETTINGS["head_cpus"])
    assert (head["port"], head["dashboard-port"]) == (str(ports["gcs"]), str(ports["dashboard"]))
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups.keys() == SETTINGS["workers"].keys()
    for group in (spec["headGroupSpec"], *groups.values()):
        assert group["rayStartParams"]["metrics-export-port"] == str(ports["metrics"])
        (container,) = group["template"]["spec"]["containers"]
        assert {e["name"]: e["value"] for e in container["env"]} == environment
        opened = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert opened.items() <= ports.items()
    for kind, wanted in SETTINGS["workers"].items():
        group = groups[kind]
        assert (group["minReplicas"], group["maxReplicas"]) == (0, wanted["most"])
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert int(limits.get("nvidia.com/gpu", 0)) == wanted["gpus"]
        assert ("SPOT" in str(pod.get("nodeSelector"))) == wanted["is_spot"]


@pytest.mark.parametrize("kind", ["rayjob", "rayservice"])
def test_the_kuberay_files_describe_one_cluster(kind: str) -> None:
    assert KUBERAY[kind](read(f"clusters/kuberay/{kind}.yaml")) == KUBE_CLUSTER


def test_versions_are_those_of_the_constraints() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    )
    image = (ROOT / "clusters/kuberay/Dockerfile").read_text("utf-8")
    assert f"FROM rayproject/ray:{pins['ray']}-" in image
    assert KUBE_CLUSTER["rayVersion"] == pins["ray"]
    setup = (NODE / "setup.sh").read_text("utf-8")
    (uv,) = set(re.findall(r"uv==(\S+)", setup + image))
    assert uv
    # The image holds the code, which others bring from where clusters/serve.yaml says.
    for text, more in ((setup, {"s3"}), (image, set())):
        assert "constraints.txt" in text
        assert set(re.findall(r"--extra (\S+)", text)) == {"minilm", "onnx", "baselines", *more}


def test_the_token_is_carried_and_stands_in_no_file() -> None:
    for name in LAUNCHED:
        assert read(name)["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert KUBE_CLUSTER["authOptions"]["secretName"]
    for path in [ROOT / "cluster.yaml", *(ROOT / "clusters").rglob("*.*")]:
        assert not re.search(r"\b[0-9a-f]{64}\b", path.read_text("utf-8")), path


@pytest.mark.parametrize("name", LAUNCHED)
def test_what_is_sent_to_the_nodes_is_there(name: str) -> None:
    mounts = read(name)["file_mounts"]
    assert all((ROOT / local).exists() for local in mounts.values() if local.startswith("./"))
    run = " ".join(
        command for key, value in read(name).items() if "commands" in key for command in value
    )
    for script in re.findall(r"~/cluster/node/(\S+?\.sh)", run):
        assert (NODE / script).is_file()


@pytest.mark.parametrize("script", sorted(NODE.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_of_a_node_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_a_machine_that_no_cloud_lets_does_not_wait_for_notice() -> None:
    nowhere = os.environ | {"METADATA_URL": "http://127.0.0.1:9", "RAY_HEAD_IP": "127.0.0.1"}
    said = subprocess.run(
        ["bash", str(NODE / "leave_on_notice.sh")],
        env=nowhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout == "not a machine that is taken away with notice\n"


# --- Ray


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_launcher_file_is_what_ray_itself_allows(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    kinds = config["available_node_types"].values()
    assert all("max_workers" in kind and "worker_setup_commands" not in kind for kind in kinds)


def test_ray_refuses_a_key_that_it_does_not_know() -> None:
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(read("cluster.yaml") | {"max_wrokers": 1}))


# --- Kubernetes

# The fields of ray.io/v1 that its reference lists (KubeRay 1.7), as far as these files need them.
FIELDS = {
    "raycluster": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
        "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend",
        "upgradeStrategy", "workerGroupSpecs",
    },
    "rayjob": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy",
        "entrypoint", "entrypointNumCpus", "jobId", "metadata", "rayClusterSpec", "runtimeEnvYAML",
        "shutdownAfterJobFinishes", "submissionMode", "submitterPodTemplate", "suspend",
        "ttlSecondsAfterFinished",
    },
    "rayservice": {
        "excludeHeadPodFromServeSvc", "rayClusterConfig", "serveConfigV2", "serveService",
        "upgradeStrategy",
    },
}  # fmt: skip
GROUP_FIELDS = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
    "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip


@pytest.mark.parametrize("kind", KUBERAY)
def test_kuberay_has_only_fields_that_its_reference_lists(kind: str) -> None:
    tree = read(f"clusters/kuberay/{kind}.yaml")
    assert tree["apiVersion"] == "ray.io/v1"
    assert tree["kind"].lower() == kind
    assert tree["spec"].keys() <= FIELDS[kind]
    spec = KUBERAY[kind](tree)
    assert spec.keys() <= FIELDS["raycluster"]
    assert spec["headGroupSpec"].keys() <= {"rayStartParams", "template", "serviceType"}
    for group in spec["workerGroupSpecs"]:
        assert group.keys() <= GROUP_FIELDS
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("group", ["head", *SETTINGS["workers"]])
def test_the_pods_are_what_kubernetes_allows(group: str) -> None:
    groups = {g["groupName"]: g for g in KUBE_CLUSTER["workerGroupSpecs"]}
    groups["head"] = KUBE_CLUSTER["headGroupSpec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}
    pod |= groups[group]["template"]
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("where", ["on pods", "on a cluster that runs"])
def test_the_service_is_a_serve_config(where: str) -> None:
    if where == "on pods":
        spec = read("clusters/kuberay/rayservice.yaml")["spec"]
        config = ServeDeploySchema(**yaml.safe_load(spec["serveConfigV2"]))
    else:
        config = ServeDeploySchema(**read("clusters/serve.yaml"))
    assert config.http_options.port == SETTINGS["ports"]["serve"]
    (app,) = config.applications
    module, name = str(app.import_path).split(":")
    assert re.search(rf"^def {name}\(", (ROOT / f"{module}.py").read_text("utf-8"), re.MULTILINE)


def test_the_job_of_kuberay_runs_a_study_that_is_there() -> None:
    entrypoint = read("clusters/kuberay/rayjob.yaml")["spec"]["entrypoint"]
    subprocess.run(["bash", "-n", "-c", entrypoint], check=True)
    (study,) = set(re.findall(r"tune_configs/\S+\.yaml", entrypoint))
    assert (ROOT / study).is_file()
