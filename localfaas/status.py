"""A function as the REST API shows it: OpenFaaS' FunctionStatus."""

from typing import Any

from localfaas.deployments import NAME_LABEL, STATUS_PREFIX
from localfaas.pool import Pool


class UsageMeter:
    """CPU used since the last look, which is what OpenFaaS' `usage.cpu` means."""

    def __init__(self) -> None:
        self._last: dict[Pool, tuple[float, float]] = {}

    def read(self, pool: Pool, now: float) -> dict[str, float]:
        """Return a function's usage: `cpu` in thousandths of a core since the last call, and memory.

        Source: FunctionUsage of https://github.com/openfaas/faas-provider/blob/master/types/function_status.go.
        """
        cpu_seconds = total_cpu_seconds(pool)
        before, since = self._last.get(pool, (cpu_seconds, now))
        self._last = {known: seen for known, seen in self._last.items() if not known.is_closing}
        self._last[pool] = (cpu_seconds, now)
        cpu = 1_000 * (cpu_seconds - before) / (now - since) if now > since else 0.0
        memory_bytes = sum(replica.process.memory().working_set_bytes for replica in pool.replicas)
        return {"cpu": cpu, "totalMemoryBytes": memory_bytes}


def total_cpu_seconds(pool: Pool) -> float:
    """Return the CPU time of a function's replicas, those that have ended included."""
    return pool.stats.ended_cpu_seconds + sum(replica.process.cpu_seconds() for replica in pool.replicas)


def function_status(pool: Pool) -> dict[str, Any]:
    """Return the status of a function without its usage; what is unset is left out."""
    deployment = pool.record.deployment
    annotations = dict(deployment.annotations)
    if pool.launcher.not_honoured:
        annotations[f"{STATUS_PREFIX}not-honoured"] = ", ".join(pool.launcher.not_honoured)
    if pool.last_error and pool.num_available < pool.record.replicas:
        annotations[f"{STATUS_PREFIX}last-error"] = pool.last_error
    optional = {
        "envProcess": deployment.env_process,
        "envVars": dict(deployment.env_vars),
        "constraints": list(deployment.constraints),
        "secrets": list(deployment.secrets),
        "limits": dict(deployment.limits),
        "requests": dict(deployment.requests),
        "readOnlyRootFilesystem": deployment.read_only_root_filesystem,
    }
    return {
        "name": deployment.service,
        "image": deployment.image,
        "namespace": deployment.namespace,
        "labels": {**deployment.labels, NAME_LABEL: deployment.service},
        "annotations": annotations,
        "invocationCount": pool.stats.num_invocations,
        "replicas": pool.record.replicas,
        "availableReplicas": pool.num_available,
        "createdAt": pool.record.created_at,
        **{name: value for name, value in optional.items() if value},
    }
