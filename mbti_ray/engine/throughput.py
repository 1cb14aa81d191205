"""Where the time of training goes: phases of a step, tokens, padding, memory.

On a GPU, work is only ordered when Python moves on, so phases are marked with events on its stream
and read when somebody looks. Knows nothing of models or data.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mbti_ray.engine.dataloader import Portion

PHASES = ("data", "forward", "backward", "update")

Span = tuple[str, torch.cuda.Event, torch.cuda.Event]


@dataclass
class Meter:
    """Sums since the last `reset`, of this rank."""

    device: torch.device
    world_size: int
    _counts: dict[str, int] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)
    _spans: list[Span] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._counts = dict.fromkeys(("windows", "tokens", "padded"), 0)
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._spans = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts what runs inside as time of a phase."""
        if self.device.type == "cuda" and name != "data":
            first, last = _event(), _event()
            first.record()
            yield
            last.record()
            self._spans.append((name, first, last))
            return
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def timed(self, portions: Iterator[Portion]) -> Iterator[Portion]:
        """The portions; waiting for one counts as data."""
        while True:
            with self.phase("data"):
                portion = next(portions, None)
            if portion is None:
                return
            yield portion

    def count(self, portion: Portion) -> None:
        """A portion has been trained on."""
        self._counts["windows"] += sum(len(batch.weight) for batch in portion.batches)
        self._counts["tokens"] += portion.tokens
        self._counts["padded"] += portion.padded

    def read(self, seconds: float) -> dict[str, float]:
        """Figures since the last reset, which was `seconds` of training ago.

        texts_s (windows a second) and tokens_s (real ones) of all ranks, which get nearly the same;
        padding (share of the tokens computed); share_data, share_forward, share_backward (with
        the exchange between ranks) and share_update of the time; memory_mib (the most that the GPU
        held, or the process had in memory).
        """
        self._fold()
        counts, seconds = self._counts, max(seconds, 1e-9)
        padded = max(counts["padded"], 1)
        return {
            "texts_s": counts["windows"] * self.world_size / seconds,
            "tokens_s": counts["tokens"] * self.world_size / seconds,
            "padding": (counts["padded"] - counts["tokens"]) / padded,
            **{f"share_{name}": self._seconds[name] / seconds for name in PHASES},
            "memory_mib": self._memory_mib(),
        }

    def _fold(self) -> None:
        for name, first, last in self._spans:
            last.synchronize()
            self._seconds[name] += first.elapsed_time(last) / 1000
        self._spans = []

    def _memory_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def told(figures: dict[str, float]) -> str:
    """The figures in the width that a progress bar has."""
    return (
        f"{figures['texts_s']:.0f} texts/s {figures['tokens_s']:.0f} tokens/s "
        f"padding {figures['padding']:.1%}"
    )


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
