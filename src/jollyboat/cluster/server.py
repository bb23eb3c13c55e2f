"""Kubernetes manifests of the project's server: a Deployment, a Service and an autoscaler."""

from collections.abc import Mapping

from jollyboat.store.settings import Settings

PORT = 8000
USER = 1000  # the image's
LEAVING_SECONDS = 5  # until the Service sends a pod that ends no more requests
ENDING_SECONDS = 60  # for these, for the answers in work (10 at most), and for the log


def server_manifests(settings: Settings, variables: Mapping[str, str]) -> list[dict]:
    """The objects that serve POST /predict in a namespace, with these environment variables.

    A pod that ends first leaves the Service, then answers what it has, then lands its prediction
    log.
    """
    name = f"{settings.project.slug.replace('_', '-')}-server"
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": settings.project.slug}
    about = {"name": name, "namespace": settings.cluster.namespace, "labels": labels}
    selector = {"app.kubernetes.io/name": name}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": about,
            "spec": {
                # No `replicas`: the autoscaler sets them.
                "selector": {"matchLabels": selector},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {"metadata": {"labels": labels}, "spec": _pod(settings, variables)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": about,
            "spec": {
                "selector": selector,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": about,
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": 2,
                "maxReplicas": 10,
                "metrics": [
                    {
                        "type": "Resource",
                        "resource": {
                            "name": "cpu",
                            "target": {"type": "Utilization", "averageUtilization": 70},
                        },
                    }
                ],
            },
        },
    ]


def _pod(settings: Settings, variables: Mapping[str, str]) -> dict:
    secrets = [{"secretRef": {"name": name}} for name in settings.cluster.secrets]
    environment = {"WORKERS": "1"} | variables  # the autoscaler adds pods instead
    container = {
        "name": "server",
        "image": settings.cluster.image,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "envFrom": secrets,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {
            "requests": {"cpu": "1", "memory": _megabytes(settings.gate.memory_mb)},
            # A new champion is loaded beside the one that serves.
            "limits": {"memory": _megabytes(2 * settings.gate.memory_mb)},
        },
        "startupProbe": _probe("/health", periodSeconds=2, failureThreshold=60),
        "livenessProbe": _probe("/health", periodSeconds=10, timeoutSeconds=5),
        "readinessProbe": _probe("/ready", periodSeconds=5, timeoutSeconds=5),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(LEAVING_SECONDS)]}}},
        "volumeMounts": [{"name": "data", "mountPath": "/app/data"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": ENDING_SECONDS,
        "enableServiceLinks": False,
        "containers": [container],
        # The models that the server pulled, and its prediction log until it is uploaded.
        "volumes": [{"name": "data", "emptyDir": {}}],
    }


def _probe(path: str, **times: int) -> dict:
    """A request for localhost, which ALLOWED_HOSTS never refuses; by default it names the pod."""
    headers = [{"name": "Host", "value": "localhost"}]
    return {"httpGet": {"path": path, "port": "http", "httpHeaders": headers}, **times}


def _megabytes(count: float) -> str:
    return f"{round(count)}M"
