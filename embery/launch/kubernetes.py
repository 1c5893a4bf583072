"""A run as objects of Kubernetes, for `kubectl apply`: written, and not started from here.

- the coordinator: a Deployment of one pod, its state on a volume of its own, behind a Service;
- the servers: a StatefulSet, whose pods give their slots away before they end;
- the workers: an Indexed Job, whose pods know their rank by their index and find rank 0 by name.

The names of all begin with the run's. Credentials come from a Secret that the user makes, for a
manifest is no place for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from embery.errors import InvalidArgument
from embery.launch.cluster import RunOptions
from embery.place import RANK_VARIABLE, WORLD_SIZE_VARIABLE
from embery.rpc.credentials import VARIABLES
from embery.rpc.transports import TRANSPORT_VARIABLE
from embery.store import URL_VARIABLE

COORDINATOR_PORT, MASTER_PORT = 7070, 29500
# Of a name, so that "-coordinator" and a pod's suffix still fit into the 63 of a label.
NAME_LENGTH_MAX = 40
STATE_FOLDER, SECRET_FOLDER = "/var/lib/embery", "/etc/embery"
# A pod that is ended gives its slots away for as long, and has some seconds more.
DRAIN_S, GRACE_S = 600, 630

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """Where and as what a run is to be.

    Args:
        image: has embery, the script and its data or the way to them; the script's path is one in
            the image.
        name: of the run: a DNS label.
        namespace: "" is that of kubectl's context.
        secret: of the same namespace, with the token in its key "token"; "" serves anyone in the
            cluster's network.
    """

    image: str
    name: str = "embery"
    namespace: str = ""
    secret: str = "embery"

    def validate(self) -> None:
        """Raise `InvalidArgument` naming the first option that is wrong."""
        if not self.image:
            raise InvalidArgument(
                "--engine kubernetes needs --image: one that has embery and the training script"
            )
        plain = self.name.replace("-", "")
        if not (
            plain.isascii()
            and plain.isalnum()
            and plain == plain.lower()
            and self.name[0].isalpha()
            and self.name[-1] != "-"
            and len(self.name) <= NAME_LENGTH_MAX
        ):
            raise InvalidArgument(
                f"--name: expected at most {NAME_LENGTH_MAX} lower-case letters, digits and "
                f"hyphens, the first a letter, got {self.name!r}"
            )


def manifests(run: RunOptions, options: KubernetesOptions) -> Object:
    """Return the objects of a run as one List, which kubectl takes as JSON."""
    made = _Manifests(run, options)
    items = [*made.coordinator(), *made.servers(), *made.workers()]
    return {"apiVersion": "v1", "kind": "List", "items": items}


class _Manifests:
    def __init__(self, run: RunOptions, options: KubernetesOptions) -> None:
        self._run, self._options = run, options
        self._url = f"embery://{options.name}-coordinator:{COORDINATOR_PORT}"
        # Pods have addresses of their own: roles listen beyond loopback.
        self._open = () if options.secret else ("--insecure",)

    def coordinator(self) -> list[Object]:
        """Return its Deployment, volume and Service."""
        command = ["coordinator", "--host", "0.0.0.0", "--port", str(COORDINATOR_PORT)]
        command += ["--state", f"{STATE_FOLDER}/cluster.sqlite"]
        command += ["--expect-ps", str(self._run.servers), "--replicas", str(self._run.replicas)]
        container = self._container([*command, *self._open])
        container["volumeMounts"] += [{"name": "state", "mountPath": STATE_FOLDER}]
        container["ports"] = [{"containerPort": COORDINATOR_PORT}]
        container["readinessProbe"] = {"tcpSocket": {"port": COORDINATOR_PORT}}
        claim = self._object("v1", "PersistentVolumeClaim", "coordinator")
        claim["spec"] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        volume = {
            "name": "state",
            "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]},
        }
        deployment = self._object("apps/v1", "Deployment", "coordinator")
        deployment["spec"] = {
            "replicas": 1,
            # Two of them would write one state.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": self._labels("coordinator")},
            "template": self._pod("coordinator", container, [volume]),
        }
        service = self._service("coordinator", COORDINATOR_PORT, headless=False)
        return [service, claim, deployment]

    def servers(self) -> list[Object]:
        """Return their StatefulSet, and the Service that it must name."""
        command = ["ps", "--coordinator", self._url, "--host", "$(POD_IP)"]
        container = self._container([*command, "--drain", str(DRAIN_S), *self._open])
        container["env"] += [_field("POD_IP", "status.podIP")]
        pods = self._object("apps/v1", "StatefulSet", "ps")
        pods["spec"] = {
            "replicas": self._run.servers,
            "serviceName": pods["metadata"]["name"],
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": self._labels("ps")},
            "template": self._pod("ps", container, [], terminationGracePeriodSeconds=GRACE_S),
        }
        return [self._service("ps", COORDINATOR_PORT, headless=True), pods]

    def workers(self) -> list[Object]:
        """Return their Job, and the Service by which they find rank 0."""
        name = f"{self._options.name}-worker"
        container = self._container(["worker", *self._run.script])
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        container["env"] += [
            {"name": URL_VARIABLE, "value": self._url},
            _field(RANK_VARIABLE, index),
            {"name": WORLD_SIZE_VARIABLE, "value": str(self._run.workers)},
            {"name": TRANSPORT_VARIABLE, "value": self._run.transport},
            {"name": "MASTER_ADDR", "value": f"{name}-0.{name}"},
            {"name": "MASTER_PORT", "value": str(MASTER_PORT)},
        ]
        job = self._object("batch/v1", "Job", "worker")
        job["spec"] = {
            "completionMode": "Indexed",
            "completions": self._run.workers,
            "parallelism": self._run.workers,
            # One failure ends the run: the others wait for the worker that failed.
            "backoffLimit": 0,
            "template": self._pod("worker", container, [], subdomain=name, restartPolicy="Never"),
        }
        return [self._service("worker", MASTER_PORT, headless=True), job]

    # -- parts ------------------------------------------------------------------------------------

    def _labels(self, role: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/name": "embery",
            "app.kubernetes.io/instance": self._options.name,
            "app.kubernetes.io/component": role,
        }

    def _object(self, version: str, kind: str, role: str) -> Object:
        metadata: Object = {"name": f"{self._options.name}-{role}", "labels": self._labels(role)}
        if self._options.namespace:
            metadata["namespace"] = self._options.namespace
        return {"apiVersion": version, "kind": kind, "metadata": metadata}

    def _service(self, role: str, port: int, *, headless: bool) -> Object:
        service = self._object("v1", "Service", role)
        service["spec"] = {"selector": self._labels(role), "ports": [{"port": port}]}
        if headless:
            # Rank 0 is looked for while it gets ready.
            service["spec"] |= {"clusterIP": "None", "publishNotReadyAddresses": True}
        return service

    def _container(self, command: Sequence[str]) -> Object:
        container: Object = {
            "name": "embery",
            "image": self._options.image,
            "command": ["embery", *command],
            "env": [],
            "volumeMounts": [],
        }
        if self._options.secret:
            token = f"{SECRET_FOLDER}/token"
            container["env"] += [{"name": VARIABLES["token_file"], "value": token}]
            container["volumeMounts"] += [
                {"name": "secret", "mountPath": SECRET_FOLDER, "readOnly": True}
            ]
        return container

    def _pod(self, role: str, container: Object, volumes: list[Object], **spec: Any) -> Object:
        if self._options.secret:
            secret = {"name": "secret", "secret": {"secretName": self._options.secret}}
            volumes = [*volumes, secret]
        return {
            "metadata": {"labels": self._labels(role)},
            "spec": {"containers": [container], "volumes": volumes, **spec},
        }


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
