"""A peer of benchmarks/serve.py: FastAPI around a transformers pipeline, as tutorials write it."""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

folder, port = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))
read = pipeline("text-classification", model=folder, tokenizer=folder, device="cpu", top_k=None)
api = FastAPI()


class Question(BaseModel):
    inputs: str


@api.get("/ready")
def ready() -> dict[str, str]:
    return {"status": "ready"}


@api.post("/predict")
def predict(question: Question) -> dict[str, float]:
    (answer,) = read([question.inputs], function_to_apply="sigmoid", truncation=True)
    return {one["label"]: one["score"] for one in answer}


uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning")
