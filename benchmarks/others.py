"""How other tools batch the same work, re-made from their description (not their code): see each
class.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_superfilter.models.batching import CPU_TOKENS, batches_by_length
from hf_superfilter.models.lm_head import SplitModel
from hf_superfilter.models.prefix_tree import attention_by
from hf_superfilter.models.tokenization import WindowReader, batch_of

WINDOW = 1_024


class DataJuicer:
    """As Data-Juicer 1.6: one row at a time in float32, two passes with all logits; mean losses are
    divided.

    Prompt and response are joined with a blank and cut on the left; the first response token is not
    scored.
    """

    def __init__(self, model: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def loss(self, ids: list[int], scored: int) -> float:
        cut = torch.tensor([ids[-WINDOW:]])
        labels = cut.clone()
        labels[0, : max(0, cut.shape[1] - scored)] = -100
        return self.model(input_ids=cut, labels=labels).loss.item()

    def ifd(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        scores = []
        for prompt, response in zip(prompts, responses, strict=True):
            own = self.tokenizer(" " + response)["input_ids"]
            whole = self.tokenizer(prompt + " " + response)["input_ids"]
            scored = len(own) - 1
            undefined = scored < 1 or not response
            scores.append(
                math.nan if undefined else self.loss(whole, scored) / self.loss(own, scored)
            )
        return np.array(scores)


class OdaDataScorer:
    """As ODA-DataScorer: batches of 8 rows in file order, padded and masked, all logits of all
    positions in float32.

    Prompt and response are tokenised apart; the response alone begins with BOS, so both passes
    score all of it.
    """

    def __init__(self, model: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def losses(self, fronts: list[list[int]], responses: list[list[int]]) -> np.ndarray:
        rows = [(front + own)[:WINDOW] for front, own in zip(fronts, responses, strict=True)]
        longest = max(map(len, rows))
        ids, mask = torch.zeros((2, len(rows), longest), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, (row, front) in enumerate(zip(rows, fronts, strict=True)):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
            labels[i, len(front) : len(row)] = ids[i, len(front) : len(row)]
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        each = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
        return (each.sum(1) / (labels[:, 1:] != -100).sum(1)).numpy()

    def ifd(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        bos, found = [self.tokenizer.bos_token_id], []
        for i in range(0, len(prompts), 8):
            given, own = (
                self.tokenizer(texts[i : i + 8])["input_ids"] for texts in (prompts, responses)
            )
            found.append(np.exp(self.losses(given, own) - self.losses([bos] * len(own), own)))
        return np.concatenate(found)


class CTranslate2:
    """A plain loop over CTranslate2's `score_batch`, which projects every position to the
    vocabulary.
    """

    def __init__(self, model: str, dtype: str, threads: int) -> None:
        import ctranslate2

        folder = Path(model) / f"ctranslate2-{dtype}"
        if not folder.is_dir():
            ctranslate2.converters.TransformersConverter(model).convert(
                str(folder), quantization=dtype
            )
        self.generator = ctranslate2.Generator(
            str(folder), compute_type=dtype, intra_threads=threads
        )
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(self, text: str, limit: int) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]

    def ifd(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        windows = []
        for prompt, response in zip(prompts, responses, strict=True):
            start = len(self.ids(prompt, WINDOW))
            windows += [
                (self.ids(prompt + response, WINDOW), start),
                (self.ids(response, WINDOW - start + 1), 1),
            ]
        tokens = [self.tokenizer.convert_ids_to_tokens(ids) for ids, _ in windows]
        scored = self.generator.score_batch(tokens, max_batch_size=2_048, batch_type="tokens")
        nats = [
            -np.mean(s.log_probs[start - 1 :] or [math.nan])
            for s, (_, start) in zip(scored, windows, strict=True)
        ]
        return np.exp(np.array(nats[::2]) - np.array(nats[1::2]))


class LossGraph(torch.nn.Module):
    """What OpenVINO gets: losses of the scored tokens of a batch, no other position projected."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.split = model, SplitModel(model)

    def forward(
        self, ids: torch.Tensor, before: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        states = self.split.body(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.model.get_output_embeddings()(states.flatten(0, 1)[before])
        return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


class OpenVINO:
    """OpenVINO's CPU plugin on a plain graph of the model, with the batches of this package."""

    def __init__(self, model: str, dtype: str, threads: int) -> None:
        import openvino

        plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.reader = WindowReader(model, AutoTokenizer.from_pretrained(model), WINDOW)
        example = (torch.ones((2, 7), dtype=torch.long), torch.tensor([1, 9]), torch.tensor([5, 6]))
        with torch.inference_mode(), attention_by(causal_attention, plain.config):
            graph = openvino.convert_model(LossGraph(plain), example_input=example)
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            "INFERENCE_NUM_THREADS": threads,
        }
        self.compiled = openvino.Core().compile_model(graph, "CPU", options)

    def ifd(self, prompts: list[str], responses: list[str]) -> np.ndarray:
        pairs = self.reader.windows(prompts, responses)
        windows = [window for pair in pairs for window in pair]
        nats = np.full(len(windows), math.nan)
        sizes = [len(window.ids) if window.scored else 0 for window in windows]
        for numbers in batches_by_length(sizes, CPU_TOKENS):
            batch = [windows[i] for i in numbers if windows[i].scored]
            if not batch:
                continue
            ids, scored = batch_of(batch)
            losses = self.compiled([ids, scored - 1, ids.reshape(-1)[scored]])[0]
            ends = np.cumsum([window.scored for window in batch])
            kept = [i for i in numbers if windows[i].scored]
            nats[kept] = [part.mean() for part in np.split(losses, ends[:-1])]
        return np.exp(nats[::2] - nats[1::2])


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend without a mask tensor; transformers' own way cannot be converted."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, is_causal=True, scale=scaling).transpose(1, 2), None
