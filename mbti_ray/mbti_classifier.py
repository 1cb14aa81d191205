"""`MBTIClassifier`: a model in Python, for notebooks and programs.

Owns what it takes (texts, posts, columns, data frames) and what it returns. Must not know Ray, HTTP
or how logits are computed. Importing it loads no torch: that waits for the first model.

Shapes: R texts, 4 dimensions in the order E, N, T, J.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from mbti_ray.errors import ConfigError, MbtiRayError
from mbti_ray.inference.prediction import Prediction, Predictions, read_posts, read_texts

if TYPE_CHECKING:
    from torch import Tensor

    from mbti_ray.inference.predictor import Predictor


class MBTIClassifier:
    """A trained model in Python; source: the seed's "Inference" section.

    >>> classifier = MBTIClassifier.from_pretrained("runs/quick/best/bundle")
    >>> classifier.predict("I love analysing complex problems")
    'INTJ'
    """

    def __init__(self, predictor: "Predictor", folder: Path) -> None:
        self._predictor = predictor
        self._folder = folder

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        runtime: Literal["torch", "onnx", "onnx-int8"] = "torch",
        device: str = "cpu",
        base_rates: Mapping[str, float] | None = None,
    ) -> "MBTIClassifier":
        """A classifier from a bundle, run or study, by path, URL, or id on the Hugging Face Hub.

        Args:
            revision: Of a model on the hub: a branch, tag or commit.
            base_rates: Share of E, N, T or J among the people asked, such as `{"E": 0.5}`; a pole
                that is not named keeps that of the training data.

        Raises:
            RunError: There is no bundle.
            BundleError: The bundle is damaged.
            ConfigError: A base rate is not between 0 and 1, or those of training are not known.
        """
        from mbti_ray.config import RunConfig, apply_overrides
        from mbti_ray.config.load import BASE_RATES, base_rate_overrides
        from mbti_ray.inference.hub import fetch_pretrained
        from mbti_ray.inference.predictor import Predictor

        with _in_words_of_python():
            rates = base_rate_overrides(base_rates or {})
            config = apply_overrides(RunConfig(), rates, allowed=BASE_RATES)
        folder = fetch_pretrained(place, revision=revision)
        predictor = Predictor.load(
            folder, runtime=runtime, device=device, base_rates=config.serve.base_rates
        )
        return cls(predictor, folder)

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, *, device: str = "cpu") -> "MBTIClassifier":
        """The seed's name of `from_pretrained`."""
        return cls.from_pretrained(path, device=device)

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        preset: str | Path = "quick",
        settings: Mapping[str, Any] | None = None,
        existing: Literal["refuse", "resume", "fresh"] = "refuse",
    ) -> "MBTIClassifier":
        """Train a model as `python -m mbti_ray.train` does; its run folder is kept.

        Args:
            data: A file, a hub dataset or `builtin`, as `data.source` takes it; or a data frame of
                pandas, polars or Arrow, which is saved as a Parquet file in the storage folder.
            preset: A preset or a YAML file.
            settings: Values by their addresses: `{"optim.lr": 1e-4, "name": "mine"}`.
            existing: What happens to a run of this name: it is kept, continued, or deleted first.

        Raises:
            MbtiRayError: What the command reports as one line.
        """
        from mbti_ray.train import train_on

        if existing not in ("refuse", "resume", "fresh"):
            raise ConfigError(
                f'existing="{existing}" is not allowed; allowed: refuse, resume, fresh'
            )
        with _in_words_of_python():
            bundle = train_on(data, preset=preset, settings=settings or {}, existing=existing)
        return cls.from_pretrained(bundle)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the bundle to a folder; a BundleError if something other than a bundle is there."""
        from mbti_ray.inference.bundle import copy_bundle

        copy_bundle(self._folder, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        license: str | None = None,
        language: str | None = None,
    ) -> str:
        """Upload the bundle to the Hugging Face Hub with its card; see `push_bundle`."""
        from mbti_ray.inference.hub import push_bundle

        card = {"license_id": license, "language": language}
        return push_bundle(self._folder, repo_id, private=private, **card)

    def __call__(self, texts: Any) -> Prediction | Predictions:
        """The prediction for a text, or for each text of what `predict` takes."""
        predictions = self._predict([[text] for text in read_texts(texts)], whole=False)
        return predictions[0] if isinstance(texts, str) else predictions

    def predict_posts(self, posts: Any) -> Prediction | Predictions:
        """The prediction for a person from all posts, a list of texts; or for a list of persons."""
        people, are_several = read_posts(posts)
        predictions = self._predict(people, whole=True)
        return predictions if are_several else predictions[0]

    @overload
    def predict(self, text: str) -> str: ...
    @overload
    def predict(self, text: Any) -> list[str]: ...
    def predict(self, text: Any) -> str | list[str]:
        """The type of a text; or of each text in a sequence, or a pandas, NumPy or Arrow column.

        DataError where something is not a text, or has nothing to read in it.
        """
        found = self(text)
        return found.type if isinstance(found, Prediction) else [p.type for p in found]

    def predict_proba(self, text: Any) -> "Tensor":
        """Probabilities of E, N, T, J: [4] for a text, [R, 4] for what else `predict` takes."""
        import torch

        found = self(text)
        if isinstance(found, Prediction):
            return torch.tensor([*found.probabilities.values()])
        return torch.tensor([[*p.probabilities.values()] for p in found]).reshape(-1, 4)

    def _predict(self, rows: list[list[str]], *, whole: bool) -> Predictions:
        return Predictions(self._predictor.predict(rows, whole=whole))

    def __repr__(self) -> str:
        from mbti_ray.reports.wording import source_name
        from mbti_ray.scores.verdict import verdict

        info = self._predictor.info
        model, data, card = info["model"], info["data"], info["scores"].get("scorecard")
        rows = f"{data['rows']['train']:,} {info['unit']}s" if data.get("rows") else "rows"
        named = f"{source_name(model['encoder'])} with {model['pooling']} pooling"
        if model["reader"] != "windows":
            named = "TF-IDF" if model["reader"] == "tfidf" else f"{named}, {model['reader']}"
        return (
            f"<MBTIClassifier: bundle {info['id']}; {named}; trained on {rows} of "
            f"{source_name(data['source'])}; {verdict(card, data) if card else 'not scored'}>"
        )


@contextmanager
def _in_words_of_python() -> Iterator[None]:
    try:
        yield
    except MbtiRayError as error:
        words = str(error).replace("command line:", "settings:")
        error.args = (re.sub("--(resume|fresh)", r'existing="\1"', words),)
        raise
