"""Routes each request to one of the bundles of a replica, and swaps the bundles while it serves.

A request that has started is finished by the model it started with, whatever the router switches to
meanwhile. Must not know who asks for another target, nor Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mbti_ray.serving.schemas import APIError, ErrorCode, PredictRequest
from mbti_ray.serving.served_model import ServedModel
from mbti_ray.serving.target import ServingTarget


@dataclass(frozen=True)
class _RoutingTable:
    """A target and its models by location; replaced as a whole, so that readers need no lock."""

    target: ServingTarget
    models: dict[str, ServedModel]

    @property
    def primary(self) -> ServedModel:
        return self.models[self.target.primary]

    @property
    def canary(self) -> ServedModel | None:
        return self.models[self.target.canary] if self.target.canary else None


class Router:
    """The models of a replica, loaded, checked and warmed up."""

    def __init__(
        self, load: Callable[[str, ServedModel | None], ServedModel], target: ServingTarget
    ) -> None:
        """
        Args:
            load: Loads the bundle at a location. It is given the model already loaded from that
                location, if any, which may be of a bundle that has since been replaced there.

        Raises:
            BundleError: The target cannot be served.
        """
        self._load = load
        models = {location: load(location, None) for location in target.locations}
        self._table = _RoutingTable(target, models)

    @property
    def target(self) -> ServingTarget:
        """What is served now."""
        return self._table.target

    @property
    def info(self) -> dict[str, Any]:
        """The body of /info."""
        table = self._table
        info = {"bundle_id": table.primary.bundle_id, **table.primary.info}
        if table.canary is not None:
            facts = {"bundle_id": table.canary.bundle_id, "share": table.target.canary_share}
            info["beside"] = {**table.canary.info, **facts}
        return info

    def switch_to(self, target: ServingTarget) -> None:
        """Serves another target from now on; may be called from any thread.

        Raises:
            BundleError: It cannot be served; the old target still is.
        """
        loaded = self._table.models
        models = {loc: self._load(loc, loaded.get(loc)) for loc in target.locations}
        self._table = _RoutingTable(target, models)

    def route(self, request: PredictRequest, bundle_id: str | None) -> ServedModel:
        """The model for a request: the one the client named, or by the canary's share.

        The same text goes to the same bundle every time.

        Raises:
            APIError: NOT_FOUND, for a bundle that is not served.
        """
        table = self._table
        if bundle_id is None:
            if table.canary and _hash_fraction(request) < table.target.canary_share:
                return table.canary
            return table.primary
        for model in table.models.values():
            if model.bundle_id == bundle_id:
                return model
        served = ", ".join(model.bundle_id for model in table.models.values())
        raise APIError(ErrorCode.NOT_FOUND, f"no such bundle is served; available: {served}")


def _hash_fraction(request: PredictRequest) -> float:
    """A number in [0, 1), uniformly distributed, from the first text of a request."""
    digest = blake2b(request.users[0][0].encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
