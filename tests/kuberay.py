"""A JSON schema of a RayJob, for what `recipes/rayjob.yaml` uses: a name that is misspelled anywhere is no field.

Written from KubeRay's API reference, ray.io/v1 of version 1.6 (https://ray-project.github.io/kuberay/reference/api/, and
`ray-operator/apis/ray/v1` in its repository), and from the OpenAPI description of Kubernetes 1.37 for pods.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
ANY: Schema = {}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
QUANTITY: Schema = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?([numkMGTPE]|[KMGTPE]i)?$"}
QUANTITIES: Schema = {"type": "object", "additionalProperties": QUANTITY}


def fields(required: str = "", other: str = "", **described: Schema) -> Schema:
    """Return the schema of an object: the required fields, the other ones, and what is in those that are described."""
    known = {name: described.get(name, ANY) for name in (required + " " + other).split()} | described
    return {"type": "object", "properties": known, "required": required.split(), "additionalProperties": False}


def several(schema: Schema) -> Schema:
    """Return the schema of a list that is not empty."""
    return {"type": "array", "items": schema, "minItems": 1}


CONTAINER = fields(
    "name image",
    "envFrom imagePullPolicy lifecycle livenessProbe ports readinessProbe resizePolicy restartPolicy restartPolicyRules"
    " securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices"
    " workingDir",
    name=NAME,
    image=TEXT,
    args=several(TEXT),
    command=several(TEXT),
    env=several(fields("name", "valueFrom", name=TEXT, value=TEXT)),
    resources=fields("", "claims", limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=several(
        fields("mountPath name", "bindMountOptions mountPropagation readOnly recursiveReadOnly subPath subPathExpr", name=NAME)
    ),
)
VOLUME = fields(
    "name",
    "cephfs configMap csi downwardAPI emptyDir ephemeral fc hostPath image iscsi nfs projected secret",
    name=NAME,
    persistentVolumeClaim=fields("claimName", claimName=NAME, readOnly=FLAG),
)
POD = fields(
    "spec",
    metadata=fields("", "name namespace", annotations=TEXTS, labels=TEXTS),
    spec=fields(
        "containers",
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostIPC hostNetwork"
        " hostPID hostUsers hostname imagePullSecrets initContainers nodeName nodeSelector overhead preemptionPolicy priority"
        " priorityClassName resourceClaims resources restartPolicy runtimeClassName schedulerName schedulingGates"
        " securityContext serviceAccountName shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations"
        " topologySpreadConstraints",
        containers=several(CONTAINER),
        volumes=several(VOLUME),
    ),
)
GROUP = {"rayStartParams": TEXTS, "template": POD}
CLUSTER = fields(
    "headGroupSpec",
    "managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling gcsFaultToleranceOptions suspend",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=fields("", "enableK8sTokenAuth secretName", mode={"enum": ["disabled", "token"]}),
    headGroupSpec=fields("rayStartParams template", "headService enableIngress resources labels serviceType", **GROUP),
    workerGroupSpecs=several(
        fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            "suspend idleTimeoutSeconds resources labels scaleStrategy",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            **GROUP,
        )
    ),
)
JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields("", "name generateName namespace", annotations=TEXTS, labels=TEXTS),
    spec=fields(
        "entrypoint rayClusterSpec",
        "activeDeadlineSeconds submitterPodTemplate metadata clusterSelector submitterConfig managedBy deletionStrategy"
        " runtimeEnvYAML jobId entrypointResources entrypointNumCpus entrypointNumGpus suspend",
        entrypoint=TEXT,
        backoffLimit=COUNT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        ttlSecondsAfterFinished=COUNT,
        shutdownAfterJobFinishes=FLAG,
        rayClusterSpec=CLUSTER,
    ),
)
