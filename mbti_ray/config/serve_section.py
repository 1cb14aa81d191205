"""The settings of the HTTP service, `serve.*`; nothing of them is part of what is learned."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mbti_ray.config.section import ConfigSection, Count, Positive

ServePrecision = Annotated[
    Literal["auto", "32", "bf16", "fp16"],
    BeforeValidator(lambda v: str(v) if isinstance(v, int) else v),
]


def _as_browsers_send(origin: str) -> str:
    """In lower case and without the port that the scheme implies."""
    scheme, _, host = origin.lower().partition("://")
    return f"{scheme}://{host.removesuffix(':80' if scheme == 'http' else ':443')}"


Origin = Annotated[str, Field(pattern=r"^https?://[^/?#@\s*]+$"), AfterValidator(_as_browsers_send)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]


class BaseRates(ConfigSection):
    """The share of each positive pole among the people asked."""

    E: OpenShare | None = None
    N: OpenShare | None = None
    T: OpenShare | None = None
    J: OpenShare | None = None


class ServeConfig(ConfigSection):
    """The HTTP service."""

    runtime: Literal["torch", "onnx", "onnx-int8"] = "torch"
    """what computes the logits; `mbti_ray.export` creates the others"""
    precision: ServePrecision = "auto"
    """of runtime=torch; auto: 32 on a CPU, on a GPU bf16 or fp16 as it supports"""
    beside: str | None = None
    """a second bundle, run or study folder that is served alongside the first"""
    beside_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of the requests that the second bundle answers; at 0 only those that ask for it by the
    header X-Bundle-Id"""
    base_rates: BaseRates = BaseRates()
    """the pole's share among the people asked; null: as in the training data"""
    allow_origins: tuple[Origin, ...] = ()
    """other websites whose pages may use the service, as https://example.com"""
    host: str = "127.0.0.1"
    """the address to listen on; 0.0.0.0: all, so that other machines can reach it"""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """of the page and the API"""
    replicas: Count | tuple[Count, Count] = 1
    """processes that have the model loaded; [min, max] scales them with the load"""
    cpus: Count = 1
    """CPUs (and threads) of a replica"""
    gpus: Annotated[float, Field(ge=0, le=1)] = 0.0
    """share of a GPU that a replica takes; torch only"""
    max_queued: Count = 128
    """predictions in a replica's queue; one more is answered 429"""
    max_wait_s: Positive = 5.0
    """a text that would wait longer for the model is answered 429"""
    batch_tokens: Count | None = None
    """padded tokens of one forward pass; null: 2048, on a GPU 32768"""
    cache: Annotated[int, Field(ge=0)] = 0
    """cached answers for repeated texts; 0: no cache"""
    deadline_s: Positive = 30.0
    """a slower answer is a 504"""
    max_body_bytes: Count = 1_000_000
    """a larger body is a 413"""
    max_texts: Count = 256
    """texts or posts of a request; more is a 413"""

    @model_validator(mode="after")
    def _fits_together(self) -> "ServeConfig":
        if self.gpus and self.runtime != "torch":
            raise ValueError(f"gpus={self.gpus:g} needs runtime=torch, not {self.runtime}")
        if self.precision in ("bf16", "fp16") and self.runtime != "torch":
            raise ValueError(f"precision={self.precision} needs runtime=torch, not {self.runtime}")
        if self.beside_share and self.beside is None:
            raise ValueError(
                f"beside_share={self.beside_share:g} needs a second bundle, beside=..."
            )
        if self.least_replicas > self.most_replicas:
            raise ValueError(f"replicas: min must not be above max, got {self.replicas}")
        return self

    @property
    def most_replicas(self) -> int:
        return self.replicas if isinstance(self.replicas, int) else self.replicas[1]

    @property
    def least_replicas(self) -> int:
        return self.replicas if isinstance(self.replicas, int) else self.replicas[0]
