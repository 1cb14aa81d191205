"""What a service should serve; imports nothing heavy, since a small process holds it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServingTarget:
    """The locations of the bundles that a service should serve.

    Attributes:
        canary: A second one, for a share of the requests that name no bundle, and by its name.
        version: Counts the targets of a service; 0 is the one it started with.
    """

    primary: str
    canary: str | None = None
    canary_share: float = 0.0
    version: int = 0
    previous: "ServingTarget | None" = None

    @property
    def locations(self) -> tuple[str, ...]:
        """The locations of the bundles, without duplicates."""
        given = (location for location in (self.primary, self.canary) if location)
        return tuple(dict.fromkeys(given))

    def describe(self) -> str:
        """`runs/a`, or `runs/a, with runs/b for 10 % of the requests`."""
        if self.canary is None:
            return self.primary
        return f"{self.primary}, with {self.canary} for {self.canary_share:.0%} of the requests"
