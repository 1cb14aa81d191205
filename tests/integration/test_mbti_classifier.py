"""`MBTIClassifier`: what it loads from, what it returns, how it shows itself."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from mbti_ray import MBTIClassifier
from mbti_ray.errors import BundleError, ConfigError, DataError, RunError
from mbti_ray.inference.prediction import Prediction, Predictions

pytestmark = pytest.mark.integration

TEXTS = ["a quiet evening with a book", "we met new friends at the party"]


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> MBTIClassifier:
    return MBTIClassifier.from_pretrained(bundle)


def test_a_call_gives_predictions_with_all_that_the_service_answers(
    classifier: MBTIClassifier,
) -> None:
    one, several = classifier(TEXTS[0]), classifier(TEXTS)
    assert isinstance(one, Prediction)
    assert isinstance(several, Predictions)
    assert [str(p) for p in several] == classifier.predict(TEXTS)
    assert several[0] == one
    assert (one.truncated, one.windows, one.abstained) == (False, 1, False)
    assert [*one.probabilities] == ["E", "N", "T", "J"]
    assert torch.tensor([*one.probabilities.values()]).equal(classifier.predict_proba(TEXTS[0]))
    assert Prediction("EXTJ", one.probabilities, truncated=False, windows=1).abstained
    assert classifier([]) == []


def test_predictions_become_a_data_frame_and_bars(classifier: MBTIClassifier) -> None:
    several = classifier(TEXTS)
    assert isinstance(several, Predictions)
    frame = several.to_frame()
    assert list(frame["type"]) == classifier.predict(TEXTS)
    assert list(frame["E"]) == [p.probabilities["E"] for p in several]
    assert frame.columns.equals(Predictions().to_frame().columns)
    bars = several._repr_html_()
    assert f"width: {100 * several[1].probabilities['J']:.1f}%" in bars
    assert bars.count("<tr>") == 2
    assert several[0]._repr_html_().count("<tr>") == 1


def test_the_posts_of_a_person_are_read_together(classifier: MBTIClassifier) -> None:
    one = classifier.predict_posts([*TEXTS, *TEXTS])
    both = classifier.predict_posts([[*TEXTS, *TEXTS], TEXTS[:1]])
    assert isinstance(one, Prediction)
    assert isinstance(both, Predictions)
    assert both[0].probabilities == pytest.approx(one.probabilities, abs=1e-6)
    assert both[1].probabilities == pytest.approx(classifier(TEXTS[0]).probabilities, abs=1e-6)
    assert both[0].probabilities != both[1].probabilities
    assert len(classifier.predict_posts(pd.Series([TEXTS, TEXTS]))) == 2


@pytest.mark.parametrize(
    ("posts", "message"),
    [
        ("a text", "^got str; allowed: the posts of a person as a list"),
        ([], "^got no posts"),
        ([TEXTS, []], r"^person 1 \(from 0\): has no posts"),
        ([TEXTS, "a text"], r"^person 1 \(from 0\): got str"),
        (
            [TEXTS, ["a", None]],
            r"^person 1 .*: row 1 \(from 0\): expected a text, got None",
        ),
        ([TEXTS[0], TEXTS], r"^row 1 \(from 0\): expected a text, got list"),
        (7, "^got int"),
    ],
    ids=str,
)
def test_posts_that_are_none_are_refused_with_their_place(
    classifier: MBTIClassifier, posts: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classifier.predict_posts(posts)


def test_its_repr_says_model_data_and_score_against_tfidf(bundle: Path, tmp_path: Path) -> None:
    from report_records import scorecard

    unscored = repr(MBTIClassifier.from_pretrained(bundle))
    assert unscored.endswith("not scored>")
    assert "; tiny with mean pooling; " in unscored
    folder = shutil.copytree(bundle, tmp_path / "scored")
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    card = scorecard()
    card["baselines"]["tfidf"] = {"accuracy": {"value": 0.8, "low": None, "high": None}}
    card["paired"] = {"against": "tfidf", "test": "flips"}
    card["paired"]["accuracy"] = {"value": 0.045, "low": 0.02, "high": 0.07, "p": 0.001}
    manifest["scores"]["scorecard"] = card
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    shown = repr(MBTIClassifier.from_pretrained(folder))
    for part in (
        manifest["id"],
        "tiny with mean pooling",
        "small.csv",
        "better than TF-IDF (0.800)",
    ):
        assert part in shown
    assert str(tmp_path) not in shown


def test_a_saved_bundle_is_loaded_and_replaces_nothing_but_bundles(
    classifier: MBTIClassifier, bundle: Path, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path / "a" / "saved")
    classifier.save_pretrained(tmp_path / "a" / "saved")
    classifier.save_pretrained(bundle)
    again = MBTIClassifier.from_pretrained(tmp_path / "a" / "saved")
    assert again.predict_proba(TEXTS).equal(classifier.predict_proba(TEXTS))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for place in ("mine", "mine/letter.txt"):
        with pytest.raises(BundleError, match="not a bundle"):
            classifier.save_pretrained(tmp_path / place)
    for inside in ("new", "new/folder"):
        with pytest.raises(ConfigError, match="is inside the bundle"):
            classifier.save_pretrained(tmp_path / "a" / "saved" / inside)
    assert not (tmp_path / "a" / "saved" / "new").exists()
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as its client asks for to create, upload and download."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/letters/tree/"):
            sizes = [(name, len(content)) for name, content in self.files.items()]
            self._json([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes])
        elif path.startswith("/api/models/me/letters"):
            names = [{"rfilename": name} for name in self.files]
            self._json({"id": "me/letters", "sha": "a" * 40, "siblings": names})
        elif path.startswith("/me/letters/resolve/"):
            self._file(self.files.get(path.rpartition("/")[2]))
        else:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/me/letters"
        self.asked.append(self.path)
        if self.path.endswith("/repos/create"):
            self._json({"url": address, "name": "me/letters"})
        elif self.path.endswith("/validate-yaml"):
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._json({"files": modes})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            self._json(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/letters/commit/aa",
                    "commitOid": "a" * 40,
                    "success": True,
                }
            )

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{len(content)}"', "X-Repo-Commit": "a" * 40}
        self._send(content, 200, headers | {"Content-Type": "application/octet-stream"})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self._send(content, status, (headers or {}) | {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("NewHub", (Hub,), {"files": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def in_another_process(code: str, cwd: Path, **environment: str) -> str:
    """What code prints: huggingface_hub reads the environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HOME": str(cwd / "hf"), "HF_TOKEN": "hf_x", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prediction_loads_no_models_of_transformers(bundle: Path, tmp_path: Path) -> None:
    """They take longer to import than torch."""
    code = f"""
import sys
from mbti_ray import MBTIClassifier
print(MBTIClassifier.from_pretrained({str(bundle)!r}).predict("a quiet evening with a book"))
print({{"transformers.modeling_utils", "torch._dynamo"}} & {{*sys.modules}})
"""
    letters, loaded = in_another_process(code, tmp_path).splitlines()
    assert len(letters) == 4
    assert loaded == "set()"


def test_a_bundle_is_pushed_to_a_hub_with_its_card_and_loaded_by_its_id_online_and_offline(
    hub: tuple[str, type[Hub]], bundle: Path, tmp_path: Path, classifier: MBTIClassifier
) -> None:
    address, server = hub
    # What `push_to_hub` and `from_pretrained` call, without importing torch in each process.
    start = "from pathlib import Path\nfrom mbti_ray.inference.hub import *\n"
    card = "license_id='mit', language='en'"
    push = f"print(push_bundle(Path({str(bundle)!r}), 'me/letters', {card}))\n"
    load = "print(fetch_pretrained('me/letters'))\n"
    missing = "try: fetch_pretrained('me/nothing')\nexcept Exception as e: print(repr(e))"
    code = start + push + load + missing
    url, folder, error = in_another_process(code, tmp_path, HF_ENDPOINT=address).splitlines()
    assert url == f"{address}/me/letters"
    assert error.startswith("RunError('me/nothing: no such folder, and the hub does not give")
    assert set(server.files) == {p.name for p in bundle.iterdir()} | {"README.md"}
    card = server.files["README.md"].partition(b"\n---\n")[0].decode().splitlines()
    assert {"library_name: mbti_ray", "license: mit", "language: en"} <= {*card}
    server.asked.clear()
    refused = f"try: {push}except Exception as e: print(repr(e))"
    offline = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"}
    again, error = in_another_process(start + load + refused, tmp_path, **offline).splitlines()
    assert again == folder
    assert error.startswith("RunError('me/letters: the hub did not take the bundle (")
    assert server.asked == []
    loaded = MBTIClassifier.from_pretrained(folder)
    assert loaded.predict_proba(TEXTS).equal(classifier.predict_proba(TEXTS))


def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    with pytest.raises(RunError, match=r"runs/mime: no such folder; did you mean .*runs/mine"):
        MBTIClassifier.from_pretrained("runs/mime")
    with pytest.raises(RunError, match="no such folder"):
        MBTIClassifier.load_from_checkpoint("./a/b/c")


def test_a_wrong_base_rate_is_named_as_in_python(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r'^base rates: "I" is not allowed; allowed: shares of E'):
        MBTIClassifier.from_pretrained(bundle, base_rates={"I": 0.5})
