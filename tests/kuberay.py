"""The fields of a RayJob, as far as KubeRay itself defines them; those of pods are Kubernetes' own.

They are written from KubeRay's API reference, ray.io/v1 of version 1.6
(https://ray-project.github.io/kuberay/reference/api/) and `ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from lightkube.models.core_v1 import PodTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta

POD: Any = PodTemplateSpec
CLUSTER: dict[str, Any] = {
    "suspend": bool, "managedBy": str, "autoscalerOptions": dict, "headServiceAnnotations": dict, "authOptions": {
        "mode": str, "enableK8sTokenAuth": bool, "secretName": str,
    }, "enableInTreeAutoscaling": bool, "gcsFaultToleranceOptions": dict, "rayVersion": str,
    "headGroupSpec!": {
        "template!": POD, "headService": dict, "enableIngress": bool, "resources": dict, "labels": dict,
        "rayStartParams": dict[str, str], "serviceType": str,
    },
    "workerGroupSpecs": [{
        "suspend": bool, "groupName!": str, "replicas": int, "minReplicas!": int, "maxReplicas!": int,
        "idleTimeoutSeconds": int, "resources": dict, "labels": dict, "rayStartParams": dict[str, str], "template!": POD,
        "scaleStrategy": dict, "numOfHosts": int,
    }],
}  # fmt: skip
JOB: dict[str, Any] = {
    "apiVersion!": str, "kind!": str, "metadata!": ObjectMeta, "spec!": {
        "activeDeadlineSeconds": int, "waitingTtlSeconds": int, "preRunningDeadlineSeconds": int, "backoffLimit": int,
        "rayClusterSpec": CLUSTER, "submitterPodTemplate": POD, "metadata": dict[str, str],
        "clusterSelector": dict[str, str], "submitterConfig": {"backoffLimit": int}, "managedBy": str,
        "deletionStrategy": dict, "entrypoint": str, "runtimeEnvYAML": str, "jobId": str, "submissionMode": str,
        "entrypointResources": str, "entrypointNumCpus": float, "entrypointNumGpus": float, "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool, "suspend": bool,
    },
}  # fmt: skip
"""Field to type; an exclamation mark stands after a required one."""


def faults(value: Any, described: Any = None, where: str = "") -> Iterator[str]:
    """Yield what is wrong with a part of a RayJob, with its place."""
    described = JOB if described is None else described
    if isinstance(described, dict):
        described = {name.rstrip("!"): (kind, name.endswith("!")) for name, kind in described.items()}
        yield from _object(value, described, where)
    elif isinstance(described, list):
        yield from _parts(value, described[0], where)
    elif is_dataclass(described):
        hints = get_type_hints(described)
        yield from _object(value, {one.name: (hints[one.name], one.default is MISSING) for one in fields(described)}, where)
    elif get_origin(described) is list:
        yield from _parts(value, get_args(described)[0], where)
    elif get_origin(described) is dict:
        for name, part in value.items() if isinstance(value, dict) else ():
            yield from faults(part, get_args(described)[1], f"{where}.{name}")
        if not isinstance(value, dict):
            yield f"{where}: no object"
    elif get_origin(described):  # of Optional[X] and Union[X, Y]
        kinds = [kind for kind in get_args(described) if kind is not type(None)]
        found = [list(faults(value, kind, where)) for kind in kinds]
        yield from min(found, key=len)
    elif isinstance(described, type) and (not isinstance(value, described) or (isinstance(value, bool) and described is int)):
        yield f"{where}: {value!r} is no {described.__name__}"


def _parts(value: Any, described: Any, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where}: no list"
        return
    for number, part in enumerate(value):
        yield from faults(part, described, f"{where}[{number}]")


def _object(value: Any, described: dict[str, tuple[Any, bool]], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no object"
        return
    yield from (f"{where}.{name}: no such field" for name in value if name not in described)
    for name, (kind, is_required) in described.items():
        if name in value:
            yield from faults(value[name], kind, f"{where}.{name}")
        elif is_required:
            yield f"{where}.{name}: missing"
