"""Every setting of a run, typed, with its default and what is allowed; `*_section` has the rest.

The defaults are those of the seed. Imports nothing heavy. Must not know files or presets.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from mbti_ray.config.data_section import DataConfig
from mbti_ray.config.loss_section import LossConfig
from mbti_ray.config.section import AS_TEXT, ConfigSection, Count, NotNegative, Positive
from mbti_ray.config.serve_section import ServeConfig

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"), AS_TEXT]
Precision = Annotated[
    Literal["32", "16-mixed", "bf16-mixed", "auto"],
    BeforeValidator(lambda v: str(v) if isinstance(v, int) else v),
]

# What is read of a row that is longer than what is read.
Truncation = Literal["head", "head_tail"]

_Accuracy = Literal["acc_ei", "acc_sn", "acc_tf", "acc_jp", "acc_mean", "acc_total"]
_MacroF1 = Literal["f1_ei", "f1_sn", "f1_tf", "f1_jp", "f1_mean"]
# Scores of the validation split that a run can monitor.
Monitor = Literal["loss", "brier", _Accuracy, "bal_mean", _MacroF1]
_LOWER_IS_BETTER = ("loss", "brier")


def mode_of(monitor: Monitor) -> Literal["min", "max"]:
    """Whether a score is better when it is lower or when it is higher."""
    return "min" if monitor in _LOWER_IS_BETTER else "max"


class ModelConfig(ConfigSection):
    """What reads a row: an encoder with heads, TF-IDF, or both."""

    reader: Literal["windows", "posts", "tfidf", "stack", "best"] = "windows"
    """what the encoder reads: windows of a user's posts, or each of the posts, with attention over
    them; tfidf: logistic regression on TF-IDF features; stack: both; best: whichever wins on
    validation"""
    member: Literal["windows", "posts"] = "windows"
    """reader=stack or best: how the encoder in them reads"""
    encoder: str = "distilbert-base-uncased"
    """a hub name, a folder, minilm, or tiny"""
    pooling: Literal["cls", "mean"] = "cls"
    """how tokens become one vector"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """before the heads"""
    trainable: Literal["all", "heads", "gradual"] = "all"
    """gradual: heads in epoch 1, the last layer too in 2, all from 3"""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 512
    """tokens of a window, special tokens included"""
    truncation: Truncation = "head"
    """what is read of a text or user beyond the limits: head: the beginning; head_tail: a quarter
    of it from the beginning, the rest from the end"""
    post_tokens: Annotated[int, Field(ge=8, le=8192)] = 128
    """reader=posts: tokens that are encoded at once; a longer post is divided into parts of equal
    length"""
    post_layers: Annotated[int, Field(ge=0, le=1)] = 0
    """reader=posts: transformer layers among the posts of a user, without order"""

    @property
    def reads_posts(self) -> bool:
        """Whether the encoder reads each post by itself."""
        return self.encoder_reader == "posts"

    @property
    def window_tokens(self) -> int:
        """Tokens that the encoder reads at once, at most."""
        return self.post_tokens if self.reads_posts else self.max_tokens

    @property
    def text_windows(self) -> int:
        """Windows of a text that is read alone: as many as hold `max_tokens`."""
        return math.ceil(self.max_tokens / self.window_tokens)

    @model_validator(mode="after")
    def _layers_are_among_posts(self) -> "ModelConfig":
        if self.post_layers and not self.reads_posts:
            raise ValueError(f"post_layers={self.post_layers} needs reader=posts")
        return self

    @property
    def encoder_reader(self) -> Literal["windows", "posts"]:
        """How the encoder reads, where there is one."""
        return self.reader if self.reader in ("windows", "posts") else self.member

    @property
    def has_encoder(self) -> bool:
        """Whether an encoder is trained, alone or together with TF-IDF."""
        return self.reader != "tfidf"

    @property
    def needed_encoder(self) -> str:
        """The encoder to load; tiny, which needs no files, where none is trained."""
        return self.encoder if self.has_encoder else "tiny"

    @property
    def has_tfidf(self) -> bool:
        """Whether TF-IDF is trained, alone or together with an encoder."""
        return self.reader in ("tfidf", "stack", "best")


class OptimConfig(ConfigSection):
    """AdamW with linear warm-up and decay."""

    lr: Positive = 2e-5
    """peak learning rate of the encoder"""
    head_lr: Positive | None = None
    """of the heads; null: the same as lr, and at least 1e-3 where model.trainable is heads or
    gradual"""
    weight_decay: NotNegative = 0.01
    """not applied to biases and norms"""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """learning rate of an encoder layer, relative to the layer above it"""
    warmup_steps: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = 500
    """optimizer steps; or a share of the run's steps, such as 0.06"""
    warmup_cap: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    """warm-up is at most this share of the run's steps; null, which setting warmup_steps implies:
    no limit"""
    clip_norm: Positive | None = 1.0
    """gradient norm limit; null: none"""

    @model_validator(mode="before")
    @classmethod
    def _given_warmup_is_not_capped(cls, values: Any) -> Any:
        if isinstance(values, dict) and "warmup_steps" in values:
            return {"warmup_cap": None} | values
        return values

    def warmup_of(self, total_steps: int) -> int:
        """Warm-up steps of a run of so many optimizer steps."""
        given = self.warmup_steps
        steps = given if isinstance(given, int) else round(given * total_steps)
        return steps if self.warmup_cap is None else min(steps, int(self.warmup_cap * total_steps))


class FitConfig(ConfigSection):
    """Epochs, batches, precision and early stopping."""

    epochs: Count = 10
    """passes over the training rows, at most: see patience"""
    batch_size: Count = 16
    """tokens of a worker's forward pass, in full windows; it has more windows when they are
    shorter"""
    accumulate: Count = 4
    """an optimizer step is batch_size x accumulate windows over all workers, or persons where the
    loss is per person"""
    posts: Count | None = 24
    """where the loss is per person: how many posts (or windows) of a person an epoch samples; null:
    all"""
    precision: Precision = "auto"
    """auto: bf16, or fp16 or 32 where the device does not have it"""
    patience: Annotated[int, Field(ge=1)] | None = 5
    """epochs without a better score before a run stops; null: never"""
    monitor: Monitor = "acc_mean"
    """the validation score that selects the epoch"""
    checkpoint_steps: Count | None = None
    """steps between additional checkpoints; null: each epoch only"""

    gradient_checkpointing: bool = False
    """recompute activations instead of keeping them: less memory"""
    compile: bool = False
    """torch.compile the model; worth it in long runs"""
    attention: Literal["padded", "packed"] = "padded"
    """padded: windows of similar length; packed: windows concatenated without padding (torch's
    variable-length attention on a GPU, without attention dropout), which was slower wherever it was
    measured"""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """steps with a non-finite loss that are skipped before the run stops"""

    tracker: Literal["none", "tensorboard", "mlflow"] = "none"
    """also export metrics to (extras of these names)"""
    profile: bool = False
    """write a profiler trace of five steps"""

    @model_validator(mode="after")
    def _packed_is_not_compiled(self) -> "FitConfig":
        if self.attention == "packed" and self.compile:
            raise ValueError("fit.attention=packed cannot be compiled; set fit.compile=false")
        return self

    @property
    def step_size(self) -> int:
        """Windows, or persons, in one optimizer step, whatever the number of workers."""
        return self.batch_size * self.accumulate

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        return mode_of(self.monitor)


class ScoringConfig(ConfigSection):
    """What is fitted on the validation split, and what scores are compared with."""

    calibrate: bool = True
    """a temperature for each head (Guo et al. 2017)"""
    threshold: Literal["half", "accuracy", "balanced_accuracy", "f1"] = "half"
    """half: 0.5; else the threshold of each head that maximizes this score"""
    abstain: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """a probability closer to its threshold than this is answered X"""
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """bootstrap resamples for the 95 % intervals; 0: no intervals"""
    baselines: bool = True
    """also train TF-IDF and logistic regression (extra: baselines)"""
    examples: Annotated[int, Field(ge=0, le=1000)] = 0
    """rows predicted most wrongly that reports quote, masked; texts are private"""


class ScalingConfig(ConfigSection):
    """Where it runs; not part of what is learned, so never part of a search space."""

    workers: Count | tuple[Count, Count] = 1
    """or [min, max]: as many as the cluster has capacity for, now and later"""
    use_gpu: bool | Literal["auto"] = "auto"
    """auto: if the cluster has one"""
    cpus: Count | None = None
    """CPUs (and threads) of a worker; null: all, or 1 for a trial"""
    gpus: Annotated[float, Field(gt=0, le=1)] = 1.0
    """share of a GPU that a trial of one worker takes"""

    @property
    def most(self) -> int:
        """Maximum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def least(self) -> int:
        """Minimum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @model_validator(mode="after")
    def _in_order(self) -> "ScalingConfig":
        if self.least > self.most:
            raise ValueError(f"workers: min must not be above max, got {list(self.workers)}")  # type: ignore[arg-type]
        if self.most > 1 and self.gpus < 1:
            raise ValueError(
                f"gpus={self.gpus:g} with workers={self.workers}: ranks that share a GPU only wait "
                "for each other; set gpus=1, or workers=1"
            )
        return self


class FailureConfig(ConfigSection):
    """Which failures a run survives."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """restarts from the last checkpoint when a worker is lost"""
    grace_s: NotNegative = 20.0
    """time to save a checkpoint before a machine is preempted"""


class RunConfig(ConfigSection):
    """One run, completely resolved."""

    name: Name | None = None
    """run folder under storage; null: preset and time"""
    storage: str = "./runs"
    """folder or URL (s3://...) that holds the runs"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """of everything random: the split, new weights, batches, dropout, the search"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    fit: FitConfig = FitConfig()
    scoring: ScoringConfig = ScoringConfig()
    scaling: ScalingConfig = ScalingConfig()
    failure: FailureConfig = FailureConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def is_loss_per_person(self) -> bool:
        """Whether the loss is of a row's pooled logits, not of each window."""
        return self.loss.per == "person" or self.model.reads_posts

    @property
    def max_windows(self) -> int:
        """Windows read of one row at most."""
        return self.model.text_windows if self.data.unit == "post" else self.person_windows

    @property
    def person_windows(self) -> int:
        """Windows read of all posts of a person at most."""
        return self.data.max_posts if self.model.reads_posts else self.data.max_windows

    @property
    def head_lr(self) -> float:
        """The peak learning rate of the heads."""
        optim = self.optim
        if optim.head_lr is not None or self.model.trainable == "all":
            return optim.head_lr or optim.lr
        # Heads alone, or first, need a far higher rate than an encoder does.
        return max(optim.lr, 1e-3)

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.data.val_share + self.data.test_share >= 0.8:
            raise ValueError("data.val_share + data.test_share leave less than 0.2 to train on")
        if self.data.split_by == "post" and self.data.unit == "user":
            raise ValueError("data.split_by=post would divide users; it needs data.unit=post")
        if self.loss.per == "window" and self.model.reads_posts:
            raise ValueError("loss.per=window: model.reader=posts has a loss per person only")
        return self
