"""Runs as objects of Kubernetes: what they say, and that its schemas take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embery.cli.main import main
from embery.errors import InvalidArgument
from embery.launch.cluster import RunOptions
from embery.launch.kubernetes import KubernetesOptions, manifests

RUN = RunOptions(script=("/app/train.py", "--epochs", "3"), servers=3, workers=2)


def objects(run: RunOptions = RUN, **options: str) -> dict[tuple[str, str], Any]:
    found = manifests(run, KubernetesOptions(**{"image": "registry/click:1", **options}))
    return {(item["kind"], item["metadata"]["name"]): item for item in found["items"]}


def container(item: Any) -> Any:
    return item["spec"]["template"]["spec"]["containers"][0]


def variables(item: Any) -> dict[str, Any]:
    return {each["name"]: each.get("value", each) for each in container(item)["env"]}


def test_servers_workers_and_coordinator_are_as_many_as_asked_for() -> None:
    found = objects()
    assert sorted(found) == [
        ("Deployment", "embery-coordinator"),
        ("Job", "embery-worker"),
        ("PersistentVolumeClaim", "embery-coordinator"),
        ("Service", "embery-coordinator"),
        ("Service", "embery-ps"),
        ("Service", "embery-worker"),
        ("StatefulSet", "embery-ps"),
    ]
    assert found["StatefulSet", "embery-ps"]["spec"]["replicas"] == 3
    job = found["Job", "embery-worker"]["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (2, 2, 0)
    coordinator = container(found["Deployment", "embery-coordinator"])["command"]
    assert coordinator[coordinator.index("--expect-ps") + 1] == "3"


def test_workers_find_the_cluster_each_other_and_their_script() -> None:
    job = objects(name="click")["Job", "click-worker"]
    assert container(job)["command"] == ["embery", "worker", "/app/train.py", "--epochs", "3"]
    told = variables(job)
    assert told["EMBERY_STORE"] == "embery://click-coordinator:7070"
    assert told["EMBERY_WORLD_SIZE"] == "2"
    assert "job-completion-index" in json.dumps(told["EMBERY_RANK"])
    # An Indexed Job's pods are HOST-INDEX in the subdomain, which is that of a headless Service.
    assert told["MASTER_ADDR"] == "click-worker-0.click-worker"
    assert job["spec"]["template"]["spec"]["subdomain"] == "click-worker"


def test_every_role_has_the_token_or_serves_anyone() -> None:
    roles = [("Deployment", "embery-coordinator"), ("StatefulSet", "embery-ps")]
    worker = ("Job", "embery-worker")
    known, anyone = objects(secret="s"), objects(secret="")
    for role in [*roles, worker]:
        assert variables(known[role])["EMBERY_TOKEN_FILE"] == "/etc/embery/token"
        assert "EMBERY_TOKEN_FILE" not in variables(anyone[role])
    for role in roles:
        assert "--insecure" not in container(known[role])["command"]
        assert "--insecure" in container(anyone[role])["command"]


def test_a_server_has_time_to_give_its_slots_away() -> None:
    pods = objects()["StatefulSet", "embery-ps"]
    command = container(pods)["command"]
    drain_s = int(command[command.index("--drain") + 1])
    assert pods["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s


@pytest.mark.parametrize("secret", ["embery", ""])
def test_the_schemas_of_kubernetes_take_them(secret: str) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed here"
    )
    version = validator.latest_version()
    for item in objects(secret=secret, namespace="training").values():
        validator.validate(item, version, strict=True)
    wrong = objects()["Job", "embery-worker"]
    wrong["spec"]["completions"] = "two"
    with pytest.raises(validator.ValidationError):
        validator.validate(wrong, version, strict=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image": ""}, "--image"),
        ({"name": "Click"}, "--name"),
        ({"name": ""}, "--name"),
        ({"name": "a" * 41}, "--name"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        KubernetesOptions(**{"image": "x", **options}).validate()


def test_the_command_writes_them_and_starts_nothing(tmp_path: Path, capsys: Any) -> None:
    command = ["run", "--engine", "kubernetes", "--ps", "3", "--workers", "2"]
    script = ["/app/train.py", "--epochs", "3"]
    assert main([*command, "--image", "registry/click:1", *script]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == manifests(RUN, KubernetesOptions("registry/click:1"))
    output = tmp_path / "run.json"
    assert main([*command, "--image", "registry/click:1", "--output", str(output), *script]) == 0
    assert output.read_text() == printed
    assert main([*command, *script]) == 2
    assert "--image" in capsys.readouterr().err
