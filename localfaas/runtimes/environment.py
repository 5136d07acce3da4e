"""The variables that every replica finds, in whatever runtime."""

from localfaas.deployments import Deployment


def common_environment(deployment: Deployment, name: str) -> dict[str, str]:
    """Return the names that OpenFaaS and a pod set, for the replica `name`; a deployment's own go above."""
    return {
        "HOSTNAME": name,
        "OPENFAAS_NAME": deployment.service,
        "OPENFAAS_NAMESPACE": deployment.namespace,
    }
