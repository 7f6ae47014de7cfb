"""How likely each answer to a question is: causal and encoder-decoder models, at the answer position alone.

causal             q0 q1 q2 q3          the state at the last token of the question
encoder-decoder    q0 q1 q2 q3 </s>     the state at the decoder's start token
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .batching import default_batch_tokens, run_by_length
from .causal_lm import ONE_AT_A_TIME, Reduce, load_causal_lm
from .fork_safety import after_fork
from .lm_head import VocabularyHead
from .loading import (
    load_config,
    load_tokenizer,
    load_weights,
    pick_device,
    pick_dtype,
    token_ids,
    window_of,
)
from .tokenization import limit_of, padded

CONTEXTS = (
    "",
    " ",
    "\n",
)  # what may stand before an answer; tokenizers differ in where they put a blank


@lru_cache(maxsize=4)
def load_reader(model: str, revision: str) -> "TokenReader":
    """How a model at a resolved revision reads questions, loaded once per process, without its weights."""
    return TokenReader(model, revision)


@lru_cache(maxsize=4)
def load_answers(
    model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
) -> "Answers":
    """A model that answers, of the kind that its config says, loaded once per process for the same settings."""
    encoder_decoder = load_config(model, revision).is_encoder_decoder
    return (Seq2SeqAnswers if encoder_decoder else CausalAnswers)(
        model, revision, dtype, device, attn_implementation
    )


class TokenReader:
    """Questions as a model's tokens: in its chat template where it has one, else as they are.

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
        with_marks, plain = self.tokenizer("x")["input_ids"], token_ids(self.tokenizer, ["x"])[0]
        start = next(i for i in range(len(with_marks)) if with_marks[i : i + len(plain)] == plain)
        self._front, self._end = with_marks[:start], with_marks[start + len(plain) :]
        if not config.is_encoder_decoder:
            self._end = []  # an end of text before the answer would end the question
        if self.chat:
            self._front = []  # the template writes its own

    def limit(self, max_length: int | None) -> int:
        """The tokens that a question may have: `max_length`, else 1,024 or the model's window where it is shorter."""
        return limit_of(max_length, self.window, self.name)

    def asked(self, question: str) -> str:
        """The question as it is put: a chat's single user turn, with the mark of the answer behind it."""
        if not self.chat:
            return question
        turns = [{"role": "user", "content": question}]
        # Models that think aloud would begin with a thought; templates that know no such thing ignore it.
        said = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return str(said)

    def read(self, texts: list[str]) -> list[Sequence[int]]:
        """The token ids of each text, with what the tokenizer puts around it."""
        return [[*self._front, *ids, *self._end] for ids in token_ids(self.tokenizer, texts)]

    def shorter(self, text: str, excess: int) -> str:
        """The beginning of a text without its last `excess` tokens; less where a character takes several."""
        after_fork()
        found = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        places = found["offset_mapping"]
        cut = places[-excess][0] if excess < len(places) else 0
        return text[: min(cut, len(text) - 1)].rstrip()

    def count(self, texts: list[str]) -> np.ndarray:
        """(n,) float64 tokens of each text by itself."""
        return np.array([len(ids) for ids in token_ids(self.tokenizer, texts)], dtype=np.float64)

    def tokens_of(self, forms: Sequence[str]) -> dict[str, int]:
        """The written forms of an answer that are a single token after some context, with their token.

        Raises:
            ValueError: there is none.
        """
        before = dict(zip(CONTEXTS, token_ids(self.tokenizer, CONTEXTS), strict=True))
        pairs = [(context, form) for form in forms for context in CONTEXTS]
        joined = token_ids(self.tokenizer, [context + form for context, form in pairs])
        found: dict[str, int] = {}
        for (context, form), ids in zip(pairs, joined, strict=True):
            ids = (
                ids[len(before[context]) :]
                if context == "\n" and ids[: len(before[context])] == before[context]
                else ids
            )
            if (
                len(ids) == 1
                and ids[0] not in found.values()
                and ids[0] != self.tokenizer.unk_token_id
            ):
                found[context + form] = ids[0]
        if not found:
            raise ValueError(
                f"the tokenizer of {self.name!r} makes several tokens of each of {', '.join(map(repr, forms))}: "
                "ask for an answer that is a single token, with yes= or no="
            )
        return found


class Answers(ABC):
    """A loaded model that says how likely each answer to a question is."""

    revision: str
    device: torch.device
    dtype: torch.dtype
    batch_tokens: int

    @abstractmethod
    def _each_logits(self, rows: list[Sequence[int]], reduce: Reduce) -> torch.Tensor:
        """What `reduce` makes of the (m, V) float32 logits at the answer position of each row, in order."""

    def probability(
        self,
        questions: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        batch_tokens: int | None = None,
    ) -> np.ndarray:
        """How likely the next token is one of each answer's, by a softmax over the whole vocabulary.

        Args:
            questions: n non-empty lists of token ids.
            answers: k lists of token ids.
            batch_tokens: tokens of a batch, for speed and memory; results do not depend on it.

        Returns:
            (n, k) float64 probabilities; nan where the model's numbers are not finite.
        """
        after_fork()
        found = np.full((len(questions), len(answers)), np.nan)

        def run(chosen: np.ndarray) -> None:
            rows = [questions[i] for i in chosen.tolist()]
            found[chosen] = (
                self._each_logits(rows, lambda logits: _shares(logits, answers)).cpu().numpy()
            )

        with torch.inference_mode(), ONE_AT_A_TIME:
            run_by_length(
                self, np.array([len(ids) for ids in questions], dtype=np.int64), run, batch_tokens
            )
        return found


class CausalAnswers(Answers):
    """Answers of a causal language model; its weights are shared with every scorer that uses the same model."""

    def __init__(
        self, model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
    ) -> None:
        self.lm = load_causal_lm(model, revision, dtype, device, attn_implementation)
        self.revision, self.device, self.dtype = self.lm.revision, self.lm.device, self.lm.dtype
        self.batch_tokens = self.lm.batch_tokens

    def _each_logits(self, rows: list[Sequence[int]], reduce: Reduce) -> torch.Tensor:
        return self.lm.next_token(rows, reduce)


class Seq2SeqAnswers(Answers):
    """Answers of an encoder-decoder model, as Flan-T5: the first token that its decoder would write.

    Raises:
        ValueError: no vocabulary head, or a model that does not say with which token its decoder starts.
    """

    def __init__(
        self, model: str, revision: str, dtype: str, device: str, attn_implementation: str | None
    ) -> None:
        self.revision, self.device = revision, pick_device(device)
        self.dtype = pick_dtype(dtype, self.device, int8=True)
        on_hub = None if revision.startswith("sha256:") else revision
        self.model: Any = load_weights(
            model, on_hub, self.dtype, self.device, attn_implementation, encoder_decoder=True
        )
        self._head = VocabularyHead(self.model.get_output_embeddings(), self.dtype)
        self.model.set_output_embeddings(self._head)
        self.batch_tokens = default_batch_tokens(self.device, self.model.config)
        configs = (self.model.generation_config, self.model.config)
        starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
        if not (known := [start for start in starts if start is not None]):
            raise ValueError(
                f"the config of {model!r} has no decoder_start_token_id: its decoder cannot start"
            )
        self._start: int = known[0]

    def _each_logits(self, rows: list[Sequence[int]], reduce: Reduce) -> torch.Tensor:
        most = self._head.rows
        return torch.cat(
            [reduce(self._logits(rows[i : i + most])) for i in range(0, len(rows), most)]
        )

    def _logits(self, rows: list[Sequence[int]]) -> torch.Tensor:
        ids = torch.from_numpy(padded(rows)).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
        first = torch.full((len(rows), 1), self._start, dtype=torch.long, device=self.device)
        return self.model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=first, use_cache=False
        ).logits[:, 0]


def _shares(logits: torch.Tensor, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """(m, k) float64 shares of each answer's tokens in the softmax of (m, V) logits."""
    total = logits.logsumexp(-1, keepdim=True)
    return torch.stack(
        [(logits[:, list(ids)] - total).double().exp().sum(-1) for ids in answers], dim=-1
    )
