"""Throughput: tokens and windows a second, padding, the share of each phase of a step, memory.

On a GPU Python only queues work, so phases are marked with events on the stream, which are read at
the next sync. Knows nothing of models or data.
"""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mbti_ray.engine.dataloader import StepBatches

PHASES = ("data", "forward", "backward", "update")


@dataclass
class ThroughputTimer:
    """Counts and times since the last `reset`, of this rank."""

    device: torch.device
    world_size: int

    def __post_init__(self) -> None:
        self.reset()
        if self.device.type == "cuda":
            # Otherwise an actor would report the peak of an earlier trial.
            torch.cuda.reset_peak_memory_stats(self.device)

    def reset(self) -> None:
        self._counts = Counter[str]()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._spans: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of what runs inside to a phase."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._spans.append((name, start, end))
            return
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def time_loading(self, batches: Iterator[StepBatches]) -> Iterator[StepBatches]:
        """The same batches; waiting for them is the phase "data"."""
        while True:
            started = time.perf_counter()
            step = next(batches, None)
            if step is None:
                # After the last step, whose end was the end of the time that counts.
                return
            self._seconds["data"] += time.perf_counter() - started
            yield step

    def count(self, step: StepBatches) -> None:
        """Count the windows and tokens of a step that has been trained on."""
        self._counts.update(windows=step.windows, tokens=step.tokens, padded=step.padded)

    def read(self, seconds: float) -> dict[str, float]:
        """Metrics over the `seconds` of training since the last reset.

        texts_s (windows a second) and tokens_s (without padding) of all ranks; padding (share of
        the computed tokens); share_data, share_forward, share_backward (with the exchange between
        ranks) and share_update of the time; memory_mib (peak of the GPU's, or of the process's).
        """
        self.read_events()
        counts, seconds = self._counts, max(seconds, 1e-9)
        return {
            "texts_s": counts["windows"] * self.world_size / seconds,
            "tokens_s": counts["tokens"] * self.world_size / seconds,
            "padding": (counts["padded"] - counts["tokens"]) / max(counts["padded"], 1),
            **{f"share_{name}": self._seconds[name] / seconds for name in PHASES},
            "memory_mib": self._memory_mib(),
        }

    def read_events(self) -> None:
        """Add up the phases that the GPU has finished, which it waits for."""
        for name, start, end in self._spans:
            end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1000
        self._spans = []

    def _memory_mib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
