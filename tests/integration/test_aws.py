"""cluster.yaml and its roles on AWS, as moto plays it: what Ray makes of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / name).read_text("utf-8")))


WORKERS = read("clusters/settings.yaml")["workers"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An account in the file's region with the stack of clusters/aws-roles.yaml in it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-no-account")
    # Keys go to ~/.ssh, Ray's notes to the folder of temporary files.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    region = read("cluster.yaml")["provider"]["region"]
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    with moto.mock_aws():
        boto3.client("cloudformation").create_stack(
            StackName="mbti-ray",
            TemplateBody=(ROOT / "clusters/aws-roles.yaml").read_text("utf-8"),
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "runs-of-somebody"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield boto3


def test_aws_has_the_roles_and_the_bucket_and_workers_may_use_nothing_else(aws: Any) -> None:
    assert [b["Name"] for b in aws.client("s3").list_buckets()["Buckets"]] == ["runs-of-somebody"]
    iam = aws.client("iam")
    worker = iam.get_instance_profile(InstanceProfileName="mbti-ray-worker")["InstanceProfile"]
    (role,) = [role["RoleName"] for role in worker["Roles"]]
    assert not iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    statements = policy["Statement"]
    assert all(action.startswith("s3:") for s in statements for action in s["Action"])
    bucket = "arn:aws:s3:::runs-of-somebody"
    assert {s["Resource"] for s in statements} == {bucket, f"{bucket}/*"}


def test_ray_starts_the_machines_of_the_file_on_aws(aws: Any) -> None:
    config = _bootstrap_config(read("cluster.yaml"), no_config_cache=True)
    kinds = config["available_node_types"]
    # Looked up from the instance types.
    assert kinds["head"]["resources"]["CPU"] == 0
    for kind, wanted in WORKERS.items():
        assert kinds[kind]["resources"].get("GPU", 0) == wanted["gpus"]
        assert kinds[kind]["resources"]["CPU"] >= 8
    # Roles are the stack's; Ray's own, which may do everything, are not made.
    roles = [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]]
    assert sorted(roles) == ["mbti-ray-head", "mbti-ray-worker"]
    ec2 = aws.client("ec2")
    machines = {kind: _start(ec2, config, kind) for kind in kinds}
    for kind, machine in machines.items():
        role = "head" if kind == "head" else "worker"
        assert machine["IamInstanceProfile"]["Arn"].endswith(f"/mbti-ray-{role}")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert (machine.get("InstanceLifecycle") == "spot") == (kind == "gpu-spot")
    _assert_only_ssh_is_open(ec2, machines["head"]["SecurityGroups"][0]["GroupId"])


def _start(ec2: Any, config: dict[str, Any], kind: str) -> dict[str, Any]:
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    node = dict(config["available_node_types"][kind]["node_config"])
    # moto has no parameter store of images.
    assert node["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
    node["ImageId"] = ec2.describe_images()["Images"][0]["ImageId"]
    kind_tag = {TAG_RAY_NODE_KIND: "head" if kind == "head" else "worker"}
    made = provider.create_node(node, {TAG_RAY_NODE_NAME: kind, **kind_tag}, 1)
    (identity,) = made
    found = ec2.describe_instances(InstanceIds=[identity])["Reservations"][0]["Instances"][0]
    assert {"Key": "ray-cluster-name", "Value": "mbti-ray"} in found["Tags"]
    provider.terminate_node(identity)
    return dict(found)


def _assert_only_ssh_is_open(ec2: Any, group_id: str) -> None:
    group = ec2.describe_security_groups(GroupIds=[group_id])["SecurityGroups"][0]
    assert group["GroupName"] == "mbti-ray"
    for rule in group["IpPermissions"]:
        inside = [pair["GroupId"] for pair in rule["UserIdGroupPairs"]]
        assert inside == [group_id] or (rule["FromPort"], rule["ToPort"]) == (22, 22)
