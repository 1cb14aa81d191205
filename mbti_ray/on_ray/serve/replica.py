"""What a replica holds: the router with its models, their threads, and the thread that follows
roll-outs.

Routes, schemas and queues are those of `mbti_ray.serving`. Must not know how the service was
started.
"""

import logging
import threading
import time

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import MbtiRayError
from mbti_ray.inference.manifest import load_manifest
from mbti_ray.inference.predictor import Predictor
from mbti_ray.on_ray.malloc_trim import start_malloc_trim_thread
from mbti_ray.on_ray.serve.metrics import ServeMetrics
from mbti_ray.on_ray.serve.rollout_coordinator import (
    ReplicaStatus,
    current_target,
    get_or_create_coordinator,
)
from mbti_ray.runs.lookup import fetch_bundle
from mbti_ray.serving.app import build_api
from mbti_ray.serving.router import Router
from mbti_ray.serving.served_model import ServedModel, forward_executors, warm_up
from mbti_ray.serving.target import ServingTarget

logger = logging.getLogger("ray.serve")


def build_replica(
    service: str, target: ServingTarget, config: ServeConfig, key_hash: str | None
) -> FastAPI:
    """The application of this replica, with loaded models that follow the roll-outs of `service`.

    Args:
        target: What is served unless something was rolled out since.
        key_hash: See `build_api`.
    """
    metrics = ServeMetrics()
    start_malloc_trim_thread()
    executors = forward_executors(config)

    def load(location: str, loaded: ServedModel | None) -> ServedModel:
        folder = fetch_bundle(location)
        if loaded is not None and loaded.predictor.is_of(load_manifest(folder)):
            return loaded
        # A thread of its own, with which its OpenMP threads end: others are answered meanwhile.
        with forward_executors(config)[1] as thread:
            predictor = thread.submit(
                Predictor.load,
                folder,
                runtime=config.runtime,
                device="cuda" if config.gpus else "cpu",
                precision=config.precision,
                base_rates=config.base_rates,
            ).result()
        speed = warm_up(predictor, executors, config)
        return ServedModel(predictor, executors, config, tokens_per_s=speed, callback=metrics)

    router = Router(load, current_target(service) or target)
    _start_rollout_thread(service, serve.get_replica_context().replica_id.unique_id, router)
    return build_api(router, config, key_hash=key_hash, on_error=metrics.on_error)


def _start_rollout_thread(service: str, replica: str, router: Router) -> None:
    """Starts the thread that switches a replica's router to each new target of its service."""

    def follow() -> None:
        status = ReplicaStatus(router.target.version)
        coordinator = None
        while True:
            try:
                coordinator = coordinator or get_or_create_coordinator(service)
                target = ray.get(coordinator.poll.remote(replica, router.target, status))
            except RayError:
                # Its machine is gone: the next coordinator learns the target from the replicas.
                coordinator = None
                time.sleep(0.5)
                continue
            if target.version != status.version:
                status = _switch(router, target)

    threading.Thread(target=follow, name="rollout", daemon=True).start()


def _switch(router: Router, target: ServingTarget) -> ReplicaStatus:
    try:
        router.switch_to(target)
    except Exception as error:
        name = type(error).__name__
        logger.error("still serving %s: %s", router.target.describe(), name)
        reason = str(error) if isinstance(error, MbtiRayError) else repr(error)
        return ReplicaStatus(target.version, reason)
    logger.warning("now serving %s", target.describe())
    return ReplicaStatus(target.version)
