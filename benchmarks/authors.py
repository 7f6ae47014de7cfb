"""The Superfiltering authors' procedure as they run it: one row at a time, full logits, plain
transformers calls.
"""

import math

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Authors:
    """IFD by the authors' loop (arXiv 2402.00530), re-made from its description."""

    def __init__(self, model: str, device: str = "cpu", max_length: int = 1_024) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = (
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(device).eval()
        )
        self.device, self.max_length = device, max_length

    def ids(self, text: str, limit: int) -> torch.Tensor:
        return self.tokenizer(
            text, return_tensors="pt", truncation=True, max_length=limit
        ).input_ids.to(self.device)

    @torch.inference_mode()
    def ifd(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        scores = []
        for prompt, response in zip(prompts, responses, strict=True):
            whole = self.ids(prompt + response, self.max_length)
            start = self.ids(prompt, self.max_length).shape[1]
            own = self.ids(response, self.max_length - start + 1) if response else whole[:, :0]
            if own.shape[1] < 2:
                scores.append(math.nan)
                continue
            labels = whole.clone()
            labels[0, :start] = -100
            given = self.model(input_ids=whole, labels=labels).loss.item()
            scores.append(
                math.exp(given - self.model(input_ids=own, labels=own.clone()).loss.item())
            )
        return np.array(scores)
