"""Read off how likely each answer to a question is, at the answer position alone.

causal             q0 q1 q2 q3          the state at the last token of the question
encoder-decoder    q0 q1 q2 q3 </s>     the state at the decoder's start token
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..base import TEMPLATE_DATE
from ..errors import SuperfilterError
from .batching import default_batch_tokens, run_by_length
from .causal_lm import load_causal_lm
from .fork_safety import after_fork
from .lm_head import FORWARD_LOCK, FirstTokenLogits
from .loading import (
    hub_revision,
    load_config,
    load_tokenizer,
    load_weights,
    pick_device,
    pick_dtype,
    use_fast_layers,
    window_of,
)
from .self_check import check_seq2seq, dtype_of
from .text_tokenizer import Ids, MarkedText, text_tokenizer, token_ids
from .tokenization import limit_of, missing_front

# What may stand before an answer; tokenizers differ in where they put a blank.
CONTEXTS = ("", " ", "\n")


@lru_cache(maxsize=4)
def load_reader(model: str, revision: str) -> "TokenReader":
    """Load what reads questions as a model's tokens, once per process, without its weights."""
    return TokenReader(model, revision)


@lru_cache(maxsize=4)
def load_answers(
    model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
) -> "Answers":
    """Load a model that answers, of the kind that its config names, once per process."""
    if load_config(model, revision).is_encoder_decoder:
        return Seq2SeqAnswers(model, revision, dtype, device, attn_implementation)
    return CausalAnswers(model, revision, dtype, device, attn_implementation)


class TokenReader:
    """Turn questions into a model's tokens, by its chat template where it has one.

    Args:
        model: a local folder or a Hub id.
        revision: a resolved one.

    Raises:
        FileNotFoundError: no config, or no tokenizer.
    """

    def __init__(self, model: str, revision: str) -> None:
        config = load_config(model, revision)
        self.name, self.tokenizer = model, load_tokenizer(model, revision)
        self.window = window_of(config)
        self.chat = bool(self.tokenizer.chat_template) and not config.is_encoder_decoder
        self.text = text_tokenizer(model, self.tokenizer)
        # A chat template writes its own front; an end before the answer would end the question.
        self._front = [] if self.chat else self.text.front
        self._end = self.text.behind if config.is_encoder_decoder else []

    def limit(self, max_length: int | None) -> int:
        """Return the tokens that a question may have.

        `max_length`, else 1,024 or the model's window where that is shorter.
        """
        return limit_of(max_length, self.window, self.name)

    def read(self, questions: Sequence[MarkedText]) -> list[tuple[str, Ids]]:
        """Return the text that each question is put in, and its token ids.

        Special tokens are read where the chat template or the question's wording has them; those in
        the texts of a row stay text. The ids hold what the tokenizer puts around a text.
        """
        texts = [self._put(question) for question in questions]
        rows: list[tuple[str, Ids]] = []
        for marked, ids in zip(texts, self.text.ids_of_marked(texts), strict=True):
            front = missing_front(self._front, ids)
            rows.append((marked.text, [*front, *ids, *self._end]))
        return rows

    def _put(self, question: MarkedText) -> MarkedText:
        """Write a question as a chat's single user turn, with the mark of the answer behind it."""
        if not self.chat:
            return question
        messages = [{"role": "user", "content": question.text}]
        # Models that think aloud would begin with a thought; other templates ignore the switch. One
        # that asks the clock is told a fixed date: the same row has the same question on any day.
        text = str(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                strftime_now=TEMPLATE_DATE.strftime,
            )
        )
        for content in (question.text, question.text.strip()):  # some templates strip a turn
            start = text.find(content)
            if start >= 0:
                shift, end = start - question.text.find(content), start + len(content)
                spans = [
                    (max(first + shift, start), min(last + shift, end))
                    for first, last in question.plain
                ]
                return MarkedText(text, [span for span in spans if span[0] < span[1]])
        return MarkedText(text)

    def shorter(self, text: str, excess: int) -> str:
        """Cut the last `excess` tokens off a text; more where a character takes several."""
        return self.text.cut(text, excess)

    def count(self, texts: list[str]) -> np.ndarray:
        """Return (n,) float64 tokens of each text by itself."""
        plain = [MarkedText(text, [(0, len(text))]) for text in texts]
        counts = [len(ids) for ids in self.text.ids_of_marked(plain)]
        return np.array(counts, dtype=np.float64)

    def tokens_of(self, forms: Sequence[str]) -> dict[str, int]:
        """Return the written forms of an answer that are a single token, with their token.

        A form counts as it is, and behind a blank or a line break.

        Raises:
            ValueError: there is none.
        """
        contexts = dict(zip(CONTEXTS, token_ids(self.tokenizer, CONTEXTS), strict=True))
        pairs = [(context, form) for form in forms for context in CONTEXTS]
        joined = token_ids(self.tokenizer, [context + form for context, form in pairs])
        tokens: dict[str, int] = {}
        for (context, form), ids in zip(pairs, joined, strict=True):
            before = contexts[context]
            if context == "\n" and ids[: len(before)] == before:
                ids = ids[len(before) :]
            is_new = len(ids) == 1 and ids[0] not in tokens.values()
            if is_new and ids[0] != self.tokenizer.unk_token_id:
                tokens[context + form] = ids[0]
        if not tokens:
            raise SuperfilterError(
                f"the tokenizer of {self.name!r} makes several tokens of each of "
                f"{', '.join(map(repr, forms))}: ask for an answer that is a single token, with "
                "yes= or no="
            )
        return tokens


class Answers(ABC):
    """Compute with a loaded model how likely each answer to a question is."""

    revision: str
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def _shares(
        self, questions: Sequence[Ids], answers: Sequence[Ids], batch_tokens: int | None
    ) -> torch.Tensor:
        """Return the (n, k) share of each answer in the softmax behind each question."""

    def probability(
        self,
        questions: Sequence[Ids],
        answers: Sequence[Ids],
        batch_tokens: int | None = None,
    ) -> np.ndarray:
        """Return how likely the next token is one of each answer's.

        The probability is a softmax over the whole vocabulary.

        Args:
            questions: n non-empty lists of token ids.
            answers: k lists of token ids.
            batch_tokens: tokens of a batch, for speed and memory; results do not depend on it.

        Returns:
            (n, k) float64 probabilities; nan where the model's numbers are not finite.
        """
        if not questions:
            return np.zeros((0, len(answers)))
        return self._shares(questions, answers, batch_tokens).numpy()


class CausalAnswers(Answers):
    """Read answers off a causal language model, which every scorer of that model shares."""

    def __init__(
        self, model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
    ) -> None:
        self.lm = load_causal_lm(model, revision, dtype, device, attn_implementation)
        self.revision, self.device, self.dtype = self.lm.revision, self.lm.device, self.lm.dtype

    def _shares(
        self, questions: Sequence[Ids], answers: Sequence[Ids], batch_tokens: int | None
    ) -> torch.Tensor:
        return self.lm.next_token(
            questions, lambda logits: shares_of(logits, answers), batch_tokens
        )


class Seq2SeqAnswers(Answers):
    """Read answers off an encoder-decoder model: the first token that its decoder would write.

    Raises:
        ValueError: no output layer, or a config that does not say how its decoder starts.
    """

    def __init__(
        self, model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
    ) -> None:
        self.revision, self.device = revision, pick_device(device)
        torch_dtype = pick_dtype(dtype, self.device, int8=True)
        self.model: Any = load_weights(
            model,
            hub_revision(revision),
            torch_dtype,
            self.device,
            attn_implementation,
            encoder_decoder=True,
        )
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)
        start = _start_token(self.model, model)
        self.fast_paths = check_seq2seq(self.model, torch_dtype, start, model, revision)
        self.dtype = dtype_of(torch_dtype, self.fast_paths.paths)
        if "layers" in self.fast_paths or self.dtype == torch.int8:
            use_fast_layers(self.model, self.dtype, model)
        split = "split" in self.fast_paths
        self._first_token = FirstTokenLogits(self.model, self.dtype, start, split=split)

    def _shares(
        self, questions: Sequence[Ids], answers: Sequence[Ids], batch_tokens: int | None
    ) -> torch.Tensor:
        after_fork()
        shares = torch.full((len(questions), len(answers)), torch.nan, dtype=torch.float64)

        def run_batch(numbers: np.ndarray) -> None:
            # No more rows at once than the reused buffer of logits holds.
            for part in np.array_split(numbers, -(-len(numbers) // self._first_token.rows)):
                logits = self._first_token.logits([questions[i] for i in part.tolist()])
                shares[torch.from_numpy(part)] = shares_of(logits, answers).cpu()

        sizes = np.array([len(ids) for ids in questions], dtype=np.int64)
        with torch.inference_mode(), FORWARD_LOCK:
            run_by_length(self, sizes, run_batch, self.fast_paths.budget(batch_tokens))
        return shares


def _start_token(model: Any, name: str) -> int:
    """Return the token that a decoder starts with."""
    for config in (model.generation_config, model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise SuperfilterError(
        f"the config of {name!r} has no decoder_start_token_id: its decoder cannot start; "
        "add it, or take the model as it was published"
    )


def shares_of(logits: torch.Tensor, answers: Sequence[Ids]) -> torch.Tensor:
    """Return the (m, k) float64 share of each answer's tokens in the softmax of (m, V) logits."""
    total = logits.logsumexp(-1, keepdim=True)
    shares = [(logits[:, list(ids)] - total).cpu().double().exp().sum(-1) for ids in answers]
    return torch.stack(shares, dim=-1)
