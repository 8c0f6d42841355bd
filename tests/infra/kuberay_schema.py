"""What KubeRay and Kubernetes document of the fields that infra/kuberay uses, as JSON schemas.

Written from the field references of KubeRay 1.6 (RayCluster, RayJob) and of Kubernetes 1.32; no unknown field is
allowed, so a field that a file begins to use is looked up there and added here.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
WHOLE: Schema = {"type": "integer", "minimum": 0}
YES: Schema = {"type": "boolean"}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY: Schema = {"type": ["string", "integer"], "pattern": r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def many(item: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


METADATA = fields(("name",), name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)
TEMPLATE_METADATA = fields(labels=TEXTS, annotations=TEXTS)
AMOUNTS: Schema = {
    "type": "object",
    "properties": dict.fromkeys(("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"), QUANTITY),
    "additionalProperties": False,
}
RESOURCES = fields(("requests", "limits"), requests=AMOUNTS, limits=AMOUNTS)
SECURITY = fields(
    allowPrivilegeEscalation=YES,
    runAsNonRoot=YES,
    capabilities=fields(drop=many(TEXT)),
    seccompProfile=fields(("type",), type=one_of("RuntimeDefault", "Localhost", "Unconfined")),
)
PROBE = fields(
    ("httpGet",),
    httpGet=fields(("port",), path=TEXT, port=PORT),
    periodSeconds=WHOLE,
    timeoutSeconds=WHOLE,
    failureThreshold=WHOLE,
)
CONTAINER = fields(
    ("name", "image"),
    name=NAME,
    image={"type": "string", "pattern": r"^[a-z0-9][a-z0-9./-]*:[\w][\w.-]*$"},
    securityContext=SECURITY,
    envFrom=many(fields(secretRef=fields(("name",), name=NAME))),
    ports=many(fields(("containerPort",), name=NAME, containerPort=PORT)),
    resources=RESOURCES,
    startupProbe=PROBE,
    livenessProbe=PROBE,
    readinessProbe=PROBE,
)
POD = fields(
    ("containers",),
    containers=many(CONTAINER),
    serviceAccountName=NAME,
    automountServiceAccountToken=YES,
    terminationGracePeriodSeconds=WHOLE,
    restartPolicy=one_of("Always", "OnFailure", "Never"),
    securityContext=fields(runAsNonRoot=YES, runAsUser=WHOLE, runAsGroup=WHOLE, fsGroup=WHOLE),
    tolerations=many(
        fields(key=TEXT, operator=one_of("Exists", "Equal"), effect=one_of("NoSchedule", "PreferNoSchedule"))
    ),
)
TEMPLATE = fields(("spec",), metadata=TEMPLATE_METADATA, spec=POD)
# Ray's start parameters are text, numbers too.
RAY_CLUSTER_SPEC = fields(
    ("headGroupSpec",),
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=fields(mode=one_of("disabled", "token"), secretName=NAME, enableK8sTokenAuth=YES),
    enableInTreeAutoscaling=YES,
    autoscalerOptions=fields(
        version=one_of("v1", "v2"),
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        idleTimeoutSeconds=WHOLE,
        resources=RESOURCES,
        securityContext=SECURITY,
    ),
    headGroupSpec=fields(
        ("template",),
        serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
        enableIngress=YES,
        rayStartParams=TEXTS,
        template=TEMPLATE,
    ),
    workerGroupSpecs=many(
        fields(
            ("groupName", "template", "minReplicas", "maxReplicas"),
            groupName=NAME,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            idleTimeoutSeconds=WHOLE,
            numOfHosts=WHOLE,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
RAY_JOB_SPEC = fields(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    backoffLimit=WHOLE,
    activeDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=YES,
    ttlSecondsAfterFinished=WHOLE,
    runtimeEnvYAML=TEXT,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    submitterPodTemplate=TEMPLATE,
)
SELECTOR = fields(matchLabels=TEXTS)
PEER = fields(
    podSelector=SELECTOR,
    namespaceSelector=SELECTOR,
    ipBlock=fields(("cidr",), cidr=TEXT, **{"except": many(TEXT)}),
)
PORTS = many(fields(("port",), protocol=one_of("TCP", "UDP", "SCTP"), port=PORT))
NETWORK_SPEC = fields(
    ("podSelector", "policyTypes"),
    podSelector=SELECTOR,
    policyTypes=many(one_of("Ingress", "Egress")),
    ingress=many(fields(**{"from": many(PEER), "ports": PORTS})),
    egress=many(fields(to=many(PEER), ports=PORTS)),
)


def kind(api: str, name: str, spec: Schema) -> Schema:
    return fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


def plain(name: str) -> Schema:
    return fields(
        ("apiVersion", "kind", "metadata"), apiVersion={"const": "v1"}, kind={"const": name}, metadata=METADATA
    )


SCHEMAS: dict[str, Schema] = {
    "Namespace": plain("Namespace"),
    "ServiceAccount": plain("ServiceAccount"),
    "NetworkPolicy": kind("networking.k8s.io/v1", "NetworkPolicy", NETWORK_SPEC),
    "RayCluster": kind("ray.io/v1", "RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": kind("ray.io/v1", "RayJob", RAY_JOB_SPEC),
}
