"""The Superfiltering authors' procedure, one row at a time, re-made from its description (arXiv
2402.00530).

This is what IFD is held to: plain tokenizer calls, full logits, transformers' own loss.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer


@lru_cache(maxsize=8)
def plain(
    folder: str, dtype: torch.dtype = torch.float32, kind: Any = AutoModelForCausalLM
) -> tuple[Any, Any]:
    """The tokenizer and the model of a folder that stays as it is, by transformers alone."""
    return AutoTokenizer.from_pretrained(folder), kind.from_pretrained(folder, dtype=dtype).eval()


class Reference(NamedTuple):
    """Mean losses in nats (nan where none), and their ratio of perplexities."""

    given: float
    alone: float
    ifd: float


class OneRowAtATime:
    """`nats(prompt, response)` by the book."""

    def __init__(
        self, folder: str, max_length: int = 1024, dtype: torch.dtype = torch.float32
    ) -> None:
        self.tokenizer, self.model = plain(folder, dtype)
        self.max_length = max_length

    def ids(self, text: str, limit: int) -> torch.Tensor:
        if not text:
            return torch.zeros((1, 0), dtype=torch.long)
        return self.tokenizer(
            text, return_tensors="pt", truncation=True, max_length=limit
        ).input_ids

    @torch.inference_mode()
    def loss(self, ids: torch.Tensor, start: int) -> float:
        labels = ids.clone()
        labels[0, :start] = -100
        if (labels[0, 1:] != -100).sum() == 0:
            return math.nan
        return self.model(input_ids=ids, labels=labels).loss.item()

    def nats(self, prompt: str, response: str) -> Reference:
        whole = self.ids(prompt + response, self.max_length)
        length = self.ids(prompt, self.max_length).shape[1]
        # Without a prompt the authors' rule would make this one token longer than the model reads.
        own = self.ids(response, min(self.max_length - length + 1, self.max_length))
        if not response:
            return Reference(math.nan, math.nan, math.nan)
        given, alone = self.loss(whole, length), self.loss(own, 0)
        # Settled for all scorers: without a prompt, or with a blank response, it is undefined.
        defined = prompt.strip() and response.strip()
        ifd = math.exp(given - alone) if defined else math.nan
        return Reference(given, alone, ifd)


class OneQuestionAtATime:
    """The softmax at the answer position, one plain forward of the whole model a question (arXiv
    2402.09668).
    """

    def __init__(self, folder: str) -> None:
        self.encoder_decoder = AutoConfig.from_pretrained(folder).is_encoder_decoder
        kind = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        self.tokenizer, self.model = plain(folder, kind=kind)

    @torch.inference_mode()
    def softmax(self, question: str, *, special: bool = True) -> torch.Tensor:
        """(V,) float64 probabilities of the first token of the answer."""
        ids = self.tokenizer(question, return_tensors="pt", add_special_tokens=special).input_ids
        start = {}
        if self.encoder_decoder:
            start["decoder_input_ids"] = torch.tensor([[self.model.config.decoder_start_token_id]])
        return self.model(input_ids=ids, **start).logits[0, -1].double().softmax(-1)


@torch.inference_mode()
def token_losses(folder, before, text):
    """The losses of the tokens of a text in nats; what is before it ends at a token's end."""
    tokenizer, model = plain(folder)
    start = len(tokenizer(before).input_ids)
    ids = tokenizer(before + text, return_tensors="pt").input_ids
    steps = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    pairs = zip(steps[start - 1 :], ids[0, start:], strict=True)
    return np.array([-float(step[token]) for step, token in pairs])
