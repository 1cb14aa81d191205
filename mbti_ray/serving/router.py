"""Routes each request to one of the bundles of a replica, and swaps the bundles while it serves.

A request that has started is finished by the model it started with, whatever the router switches to
meanwhile. Must not know who asks for another target, nor Ray.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget

# A target and its models by location: replaced as a whole, so that readers need no lock.
_Table = tuple[ServingTarget, dict[str, ServedModel]]


class Router:
    """The models of a replica, loaded, checked and warmed up."""

    def __init__(
        self, load: Callable[[str, ServedModel | None], ServedModel], target: ServingTarget
    ) -> None:
        """`load` gets a location and the model loaded from it before, if any, whose bundle may have
        been replaced since. Raises BundleError.
        """
        self._load = load
        self._table: _Table = target, {}
        self.switch_to(target)

    @property
    def target(self) -> ServingTarget:
        """What is served now."""
        return self._table[0]

    @property
    def info(self) -> dict[str, Any]:
        """The body of /info."""
        target, models = self._table
        primary = models[target.primary]
        info = {"bundle_id": primary.bundle_id, **primary.info}
        if target.canary:
            canary = models[target.canary]
            facts = {"bundle_id": canary.bundle_id, "share": target.canary_share}
            info["beside"] = {**canary.info, **facts}
        return info

    def switch_to(self, target: ServingTarget) -> None:
        """Serves another target from now on, or raises BundleError; callable from any thread."""
        loaded = self._table[1]
        models = {loc: self._load(loc, loaded.get(loc)) for loc in target.locations}
        self._table = target, models

    def route(self, request: PredictRequest, bundle_id: str | None) -> ServedModel:
        """The model that the client named, or one by the canary's share, fixed for each text.

        Raises:
            APIError: NOT_FOUND, for a bundle that is not served.
        """
        target, models = self._table
        if bundle_id is None:
            if target.canary and _hash_fraction(request) < target.canary_share:
                return models[target.canary]
            return models[target.primary]
        for model in models.values():
            if model.bundle_id == bundle_id:
                return model
        served = ", ".join(model.bundle_id for model in models.values())
        raise APIError(ErrorCode.NOT_FOUND, f"no such bundle is served; available: {served}")


def _hash_fraction(request: PredictRequest) -> float:
    """A number in [0, 1), uniformly distributed, from the first text of a request."""
    digest = blake2b(request.users[0][0].encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
