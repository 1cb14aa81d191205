"""The HTTP service as a deployment of Ray Serve.

Owns its options. What a replica holds is in `replica`, which this imports only there; starting and
stopping is in `service`.
"""

import os
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from mbti_ray.config.serve_section import ServeConfig
from mbti_ray.errors import ConfigError
from mbti_ray.runs.lookup import locate_bundle
from mbti_ray.serving.access import key_digest
from mbti_ray.serving.target import ServingTarget
from mbti_ray.storage.remote import Location, absolute_location

APP_NAME = "mbti"
# The environment variable with the API key; if it is set, /predict and /info require the key.
API_KEY_NAME = "MBTI_RAY_API_KEY"
# Enough to fill a forward pass while the previous one runs.
_TARGET_ONGOING_REQUESTS = 16
# For pages, probes and slow senders: the number of connections that HAProxy accepts.
_EXTRA_ONGOING_REQUESTS = 4096
# A burst waits in Ray's queue for some milliseconds before a replica can refuse it.
_MAX_QUEUED_REQUESTS = 1000
_RETRY_AFTER_S = 1


class MbtiService:
    """One replica.

    What it consists of is imported there: the process that starts the service needs neither torch
    nor transformers, without which Ray starts seconds earlier.
    """

    def __init__(
        self, service: str, target: ServingTarget, config: ServeConfig, key_hash: str | None = None
    ) -> None:
        from mbti_ray.on_ray.serve.replica import build_replica

        self._service = service
        self._config = config
        self._api = build_replica(service, target, config, key_hash)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._api

    def describe(self) -> tuple[str, ServeConfig]:
        """The name of the service, by which its rollout coordinator is found, and its config."""
        return self._service, self._config


def build_app(bundle: Location, config: ServeConfig) -> serve.Application:
    """The Serve application of a bundle, whose location must be valid on every node."""
    deployment = serve.deployment(
        serve.ingress()(MbtiService),
        name=APP_NAME,
        **_scaling_options(config),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        # The replica refuses requests itself, at once and in JSON (`serving.admission`). Ray's own
        # limit is the second line of defense, against a flood; its 429 is plain text.
        max_ongoing_requests=config.max_queued + _EXTRA_ONGOING_REQUESTS,
        max_queued_requests=_MAX_QUEUED_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_S),
        # One object per line: time, route, status, request id; never a body.
        logging_config=LoggingConfig(encoding="JSON"),
        # A damaged bundle does not load on a second attempt either.
        max_constructor_retry_count=1,
    )
    return deployment.bind(uuid4().hex, build_target(bundle, config), config, load_key_digest())


def load_key_digest() -> str | None:
    """The digest of the API key in the environment; ConfigError if that is none."""
    key = os.environ.get(API_KEY_NAME)
    if key is None:
        return None
    if not key.isascii() or not key.isprintable() or key.split() != [key]:
        raise ConfigError(
            f"{API_KEY_NAME}: must be ASCII letters, digits and punctuation without spaces, and "
            "not empty; unset it to serve without a key"
        )
    return key_digest(key)


def build_target(bundle: Location, config: ServeConfig) -> ServingTarget:
    """A bundle and the canary of `config`, as locations that are valid in any process."""
    canary = absolute_location(locate_bundle(config.beside, "")) if config.beside else None
    return ServingTarget(absolute_location(bundle), canary, config.beside_share)


def _scaling_options(config: ServeConfig) -> dict[str, Any]:
    if isinstance(config.replicas, int):
        return {"num_replicas": config.replicas}
    scaling = AutoscalingConfig(
        min_replicas=config.least_replicas,
        max_replicas=config.most_replicas,
        target_ongoing_requests=_TARGET_ONGOING_REQUESTS,
    )
    return {"autoscaling_config": scaling}
