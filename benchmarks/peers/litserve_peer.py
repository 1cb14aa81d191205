"""A peer of benchmarks/serve.py: LitServe with its batching, as its documentation writes it.

litserve_peer.py MODEL PORT THREADS [GRAPH.onnx]
"""

import sys
from typing import Any

import litserve
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

FOLDER, PORT, THREADS, *GRAPH = sys.argv[1:]


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(FOLDER)
        if GRAPH:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = int(THREADS)
            self.session = onnxruntime.InferenceSession(GRAPH[0], options)
        else:
            torch.set_num_threads(int(THREADS))
            self.model = AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["inputs"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    @torch.inference_mode()
    def predict(self, texts: list[str]) -> list[list[float]]:
        kind = "np" if GRAPH else "pt"
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors=kind)
        if GRAPH:
            mask = tokens["attention_mask"].astype(bool)
            inputs = {"input_ids": tokens["input_ids"], "attention_mask": mask}
            logits = torch.from_numpy(self.session.run(None, inputs)[0])
        else:
            logits = self.model(**tokens).logits
        answers: list[list[float]] = logits.sigmoid().tolist()
        return answers

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        return dict(zip("ENTJ", output, strict=True))


if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=int(PORT), log_level="warning", generate_client_file=False)
