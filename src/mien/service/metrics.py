"""Figures for Prometheus. No tenant, no name and no id is a label."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def gpu_memory() -> dict[str, float]:
    """Bytes in use of each GPU that NVIDIA's tool knows; nothing where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    asked = [tool, "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=3, check=True).stdout
        rows = [line.split(",") for line in said.splitlines() if line.strip()]
        return {index.strip(): float(used) * (1 << 20) for index, used in rows}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


class Metrics:
    """What is counted, in a registry of its own.

    Attributes:
        registry: Of all that is below.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "mien_requests", "Requests", ["method", "route", "status"], registry=own
        )
        self.seconds = Histogram(
            "mien_request_seconds", "Time to the answer", ["route"], buckets=_SECONDS, registry=own
        )
        self.stages = Histogram(
            "mien_stage_seconds",
            "Time of a stage",
            ["work", "stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self.frames = Counter("mien_frames", "Frames that workers painted", registry=own)
        self.errors = Counter("mien_errors", "Work that failed", ["work", "error"], registry=own)
        self.workers = Gauge("mien_workers_ready", "Workers that have warmed up", registry=own)
        self.restarts = Counter("mien_worker_restarts", "Workers started again", registry=own)
        self.waiting = Gauge("mien_calls_waiting", "Calls that wait for a worker", registry=own)
        self.jobs = Gauge("mien_jobs", "Jobs by state", ["state"], registry=own)
        self.age = Gauge(
            "mien_jobs_oldest_seconds", "Age of the oldest job that waits", registry=own
        )
        self.fps = Gauge(
            "mien_frames_per_second", "Of the last part, by worker", ["worker"], registry=own
        )
        self.streams = Gauge("mien_streams", "Live streams", registry=own)
        self.gpu = Gauge("mien_gpu_memory_bytes", "GPU memory in use", ["gpu"], registry=own)

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """What a worker tells.

        Args:
            name: ``stages``: ``work`` and ``seconds`` by stage; ``frames``: ``count`` and, of
                videos, ``fps`` and ``worker``; ``error``: ``work`` and ``error``, the class.
            facts: As above.
        """
        if name == "stages":
            for stage, seconds in facts["seconds"].items():
                self.stages.labels(facts["work"], stage).observe(seconds)
        elif name == "frames":
            self.frames.inc(facts["count"])
            if "fps" in facts:
                self.fps.labels(facts["worker"]).set(facts["fps"])
        elif name == "error":
            self.errors.labels(facts["work"], facts["error"]).inc()
