"""What a service is to serve, in words; imports nothing heavy, since a small process keeps it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """What is to be served.

    Attributes:
        number: Counts what was wanted, one after the other; 0 is what the service began with.
        front: The bundle that answers.
        beside: A second one, for a share of the questions and for those that ask for it.
        share: Of the questions that name no bundle: the part that `beside` answers.
        before: What was served until this was wanted.
    """

    front: str
    beside: str | None = None
    share: float = 0.0
    number: int = 0
    before: "Wanted | None" = None

    @property
    def places(self) -> tuple[str, ...]:
        """The bundles, each once."""
        return tuple(dict.fromkeys(place for place in (self.front, self.beside) if place))

    def describe(self) -> str:
        """`runs/a`, or `runs/a, beside it runs/b for 10 % of the questions`."""
        if self.beside is None:
            return self.front
        return f"{self.front}, beside it {self.beside} for {self.share:.0%} of the questions"
