"""The only inference code: a causal language model that says how surprising each response is.

    prompt + response, one tokenisation           response alone
    ids    p0 p1 p2 r0 r1 r2                      ids    r0 r1 r2
    scored          r0 r1 r2   start = 3          scored    r1 r2      start = 1

A `Window` is such a row of ids with the position where scoring starts. The token at position t is
predicted from the hidden state at t - 1. Padding stands on the right, where a causal model never
looks, so no attention mask is needed and attention stays on its fastest path.
"""

import dataclasses
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from .batching import batches_by_length
from .revisions import resolve_revision

DEFAULT_MAX_LENGTH = 1_024  # the Superfiltering authors' window
HEAD_BYTES = {"cpu": 52 << 20, "cuda": 512 << 20}  # logits made at once: 271 positions of GPT-2 on a CPU
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HOME = os.getpid()
_ONE_AT_A_TIME = threading.Lock()  # a forward pass patches its model and may set process-wide switches


class Window(NamedTuple):
    """Token ids, the position of the first one that is scored, and `ok` or what is the matter with it."""

    ids: Sequence[int]
    start: int
    status: str = "ok"

    @property
    def scored(self) -> int:
        """How many tokens are scored; the very first token of a window has nothing before it."""
        return max(0, len(self.ids) - self.start)


class Pair(NamedTuple):
    """The two windows of one prompt and response: the response given the prompt, and alone."""

    given: Window
    alone: Window


def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively: CUDA sm80 and later, avx512_bf16, amx."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
    return False


def pick_device(device: str, rank: int | None = None) -> torch.device:
    """`auto` is CUDA device number `rank` (modulo their count) where there is one, else the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda", (rank or 0) % torch.cuda.device_count())
    return torch.device("cpu")


@lru_cache(maxsize=4)
def load_causal_lm(
    model: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
) -> "CausalLM":
    """A `CausalLM`, loaded once per process for the same settings."""
    return CausalLM(model, revision=revision, dtype=dtype, device=device, attn_implementation=attn_implementation)


@lru_cache(maxsize=4)
def load_tokenizer(model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, loaded once per process; counting tokens needs no weights."""
    return AutoTokenizer.from_pretrained(model, revision=revision)


class CausalLM:
    """Losses of responses under a causal language model of transformers.

    Args:
        model: a local folder or a Hub id.
        revision: branch, tag or commit on the Hub.
        dtype: `auto` (bfloat16 where the hardware multiplies it natively, else float32), `float32`,
            `bfloat16` or `float16`. Logits and losses are float32 always.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        attn_implementation: as in transformers; None lets transformers choose.

    Raises:
        FileNotFoundError: no such model, or a folder without config or weights.
        ValueError: an encoder-decoder model.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attn_implementation: str | None = None,
    ) -> None:
        self.name, self.device = str(model), pick_device(device)
        self.revision = resolve_revision(self.name, revision)
        chosen = "bfloat16" if native_bfloat16(self.device) else "float32"
        self.dtype = DTYPES[chosen if dtype == "auto" else dtype]
        on_hub = None if self.revision.startswith("sha256:") else self.revision
        _check_is_causal(self.name, on_hub)
        self.tokenizer = load_tokenizer(self.name, on_hub)
        loaded = AutoModelForCausalLM.from_pretrained(
            self.name, revision=on_hub, dtype=self.dtype, attn_implementation=attn_implementation
        )
        self.model = loaded.to(self.device).eval()
        self.model.config.pad_token_id = None  # padding is never marked, see the module's docstring
        self.window = _window_of(self.model.config)
        # Tokens of one batch: on a CPU enough to fill the matrix units while blocks stay small enough
        # for the allocator to reuse; on a GPU as many as fit, halved when they do not.
        self.batch_tokens = 2_048 if self.device.type == "cpu" else 65_536
        _fuse_gelu(self.model)
        self._body = self.model.get_decoder()
        self._head = _Head(self.model.get_output_embeddings(), self.dtype)
        self.model.set_output_embeddings(self._head)
        first = self.tokenizer("x")["input_ids"][:1]
        bos = self.tokenizer.bos_token_id
        self.bos = [bos] if bos is not None and first == [bos] else []

    def nll(
        self, prompts: Sequence[str], responses: Sequence[str], *, append_eos: bool = False, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean negative log-likelihood of each response given its prompt.

        Returns:
            (n,) float64 nats per scored response token, nan where none could be scored, and
            (n,) int64 numbers of scored tokens.

        Example:
            >>> from hf_superfilter import CausalLM, embedded_model
            >>> nats, tokens = CausalLM(embedded_model("weak")).nll(["Say hello.\\n"], ["Hello there!"])
            >>> bool(0 < nats[0] < 9), int(tokens[0]) > 0
            (True, True)
        """
        pairs = self.windows(prompts, responses, append_eos=append_eos, max_length=max_length)
        return self.losses([pair.given for pair in pairs])

    def windows(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        max_length: int | None = None,
        bos: bool = False,
        skip_first: bool = False,
        append_eos: bool = False,
    ) -> list[Pair]:
        """Both windows of every prompt and response, by the Superfiltering authors' rules.

        Prompt and response are tokenised as one string and cut on the right at `max_length`; the
        first `len(tokenise(prompt))` tokens are not scored. The alone window is the response's own
        tokenisation, cut to `max_length - len(tokenise(prompt)) + 1`, every token after the first
        scored. A tokenizer that adds BOS puts it before both.

        Args:
            max_length: tokens; None is 1,024, or the model's window where that is shorter.
            bos: put BOS (else EOS) before both windows when the tokenizer adds none itself.
            skip_first: score neither window's first response token.
            append_eos: the end-of-text token is the response's last token, and scored.
        """
        limit = self.limit(max_length)
        ending = [self._special("eos")] if append_eos else []
        front = self.bos or ([self._special("bos")] if bos else [])
        whole = self._encode([p + r for p, r in zip(prompts, responses, strict=True)])
        before, after = self._encode(prompts), self._encode(responses)
        pairs = []
        for w, p, r in zip(whole, before, after, strict=True):
            length = min(len(front) + len(p), limit)
            empty = "" if r else "empty_response"
            pairs.append(
                Pair(
                    _window(front + w + ending, length + skip_first, limit, empty or (length >= limit and "prompt_too_long")),
                    _window(front + r + ending, len(front) + skip_first, limit - length + 1, empty),
                )
            )
        return pairs

    def limit(self, max_length: int | None) -> int:
        """The number of tokens a window may hold."""
        if max_length is None:
            return min(DEFAULT_MAX_LENGTH, self.window)
        if max_length > self.window:
            raise ValueError(f"max_length={max_length}, but {self.name} reads at most {self.window} tokens: lower it")
        return max_length

    def losses(self, windows: Sequence[Window], batch_tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss of the scored tokens of each window, all windows through one length-sorted queue.

        Args:
            windows: n windows of any lengths.
            batch_tokens: tokens of one batch; None is the device's default. The results do not depend on it.

        Returns:
            (n,) float64 nats per scored token (nan where none is), and (n,) int64 scored tokens.
        """
        _after_fork()
        counts = np.array([window.scored for window in windows], dtype=np.int64)
        sums = np.full(len(windows), np.nan)
        todo = np.flatnonzero(counts)
        budget = batch_tokens or self.batch_tokens
        with torch.inference_mode(), _ONE_AT_A_TIME:
            for batch in batches_by_length([len(windows[i].ids) for i in todo], budget):
                chosen = todo[batch]
                sums[chosen] = self._fitting([windows[i] for i in chosen])
        return sums / np.maximum(counts, 1), counts

    def _fitting(self, windows: list[Window]) -> np.ndarray:
        """Loss sums of one batch; out of memory halves the batch, and the budget of those to come."""
        try:
            return self._sums(windows)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU allocation failure is a plain one
            if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
                raise
            if len(windows) == 1:
                raise MemoryError(
                    f"a single row of {len(windows[0].ids)} tokens does not fit into the memory of {self.device}: "
                    "lower max_length or take a smaller model"
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_tokens = max(256, self.batch_tokens // 2)
        middle = len(windows) // 2
        return np.concatenate([self._fitting(windows[:middle]), self._fitting(windows[middle:])])

    def _sums(self, windows: list[Window]) -> np.ndarray:
        """(k,) float64 loss sums of k windows in one forward pass."""
        longest = max(len(window.ids) for window in windows)
        ids = np.zeros((len(windows), longest), dtype=np.int64)
        for row, window in zip(ids, windows, strict=True):
            row[: len(window.ids)] = window.ids
        positions = [i * longest + t for i, w in enumerate(windows) for t in range(w.start, len(w.ids))]
        owners = np.repeat(np.arange(len(windows)), [w.scored for w in windows])
        targets = torch.from_numpy(ids.reshape(-1)[positions]).to(self.device)
        inputs = torch.from_numpy(ids).to(self.device, non_blocking=True)
        output = self._body(input_ids=inputs, use_cache=False)
        chosen = output.last_hidden_state.flatten(0, 1)[torch.tensor(positions, device=self.device) - 1]
        with self._head_only(output) as logits_of:
            chunks = [
                _cross_entropy(logits_of(states), wanted)
                for states, wanted in zip(chosen.split(self._head.rows), targets.split(self._head.rows), strict=True)
            ]
        nats = torch.cat(chunks).double().cpu().numpy()
        return np.bincount(owners, weights=nats, minlength=len(windows))

    @contextmanager
    def _head_only(self, output: ModelOutput) -> Iterator[Any]:
        """A function from (m, d) hidden states to (m, V) float32 logits, by the model's own forward.

        Its body is short-circuited to hand over the states, so that whatever a model does after
        the projection (soft caps, scales) happens here too, on the chosen positions alone.
        """
        given: list[torch.Tensor] = []
        nothing = torch.zeros((1, 1), dtype=torch.long, device=self.device)

        def logits_of(states: torch.Tensor) -> torch.Tensor:
            given[:] = [states[None]]
            return self.model(input_ids=nothing, use_cache=False).logits[0]

        self._body.forward = lambda *args, **kwargs: dataclasses.replace(output, last_hidden_state=given[0])
        try:
            yield logits_of
        finally:
            del self._body.forward  # the class's own forward shows again

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not len(texts):
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    def _special(self, wanted: str) -> int:
        """The id of BOS (EOS where there is no BOS) or of EOS."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        token = eos if wanted == "eos" or bos is None else bos
        if token is None:
            raise ValueError(f"the tokenizer of {self.name} has no {wanted.upper()} token, which this setting needs")
        return token


class _Head(torch.nn.Module):
    """The vocabulary projection with float32 results into one reused buffer.

    On a CPU in bfloat16 the weights are kept in float32 and oneDNN is told to multiply in bfloat16:
    products and sums are those of bfloat16 inputs, the logits are not rounded. Measured on 1,024
    positions of GPT-2: 190 ms, against 230 ms for bfloat16 logits cast up (which err by up to 0.05
    nats) and 520 ms for float32.
    """

    def __init__(self, projection: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.projection, self.plain = projection, type(projection) is torch.nn.Linear
        weight = projection.weight.detach()
        self.rows = max(16, HEAD_BYTES.get(weight.device.type, 52 << 20) // (4 * weight.shape[0]))
        self.fast_cpu = weight.device.type == "cpu" and dtype == torch.bfloat16
        if self.plain:
            self.weight = weight if weight.is_cuda else weight.float()
            self.buffer = torch.empty((self.rows, weight.shape[0]), dtype=torch.float32, device=weight.device)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self.plain:
            return self.projection(states).float()
        rows, out = states[0], self.buffer[: states.shape[1]]
        if self.weight.is_cuda and self.weight.dtype != torch.float32:
            torch.mm(rows, self.weight.T, out_dtype=torch.float32, out=out)
        else:
            with _bfloat16_products(self.fast_cpu):
                torch.mm(rows.float(), self.weight.T, out=out)
        if self.projection.bias is not None:
            out.add_(self.projection.bias)
        return out[None]


@contextmanager
def _bfloat16_products(wanted: bool) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices in bfloat16 with float32 sums, in this block only."""
    if not wanted:
        yield
        return
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def _cross_entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(m,) losses in nats of (m, V) float32 logits, which are overwritten: no second full-size block."""
    top = logits.amax(-1, keepdim=True)
    wanted_logits = logits.gather(-1, wanted[:, None])[:, 0] - top[:, 0]
    return logits.sub_(top).exp_().sum(-1).log() - wanted_logits


def _window(ids: list[int], start: int, limit: int, reason: str | bool) -> Window:
    """The window over the first `limit` ids, with its status; position 0 has nothing before it and is never scored."""
    start = max(start, 1)
    cut = ids[:limit]
    if not reason and len(cut) <= start:
        reason = "too_short"
    return Window(cut, start, reason or ("truncated" if len(ids) > limit else "ok"))


def _check_is_causal(name: str, revision: str | None) -> None:
    folder = Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"the folder {name!r} holds no config.json: it is not a transformers model")
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"the model folder {name!r} holds no weights: expected model.safetensors")
    if AutoConfig.from_pretrained(name, revision=revision).is_encoder_decoder:
        raise ValueError(f"{name!r} is an encoder-decoder model: perplexity and IFD need a causal language model")


def _window_of(config: Any) -> int:
    """The longest sequence of a model; models without learned positions may name no limit."""
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"):
        if getattr(text, key, None):
            return int(getattr(text, key))
    return 1 << 30


def _fuse_gelu(model: torch.nn.Module) -> None:
    """Exchange `gelu_new`, a chain of element-wise operations, for the same function in one kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, torch.nn.GELU(approximate="tanh"))


def _after_fork() -> None:
    """In a forked worker, one thread: the parent's thread pool does not exist here and would be waited for."""
    global _HOME
    if os.getpid() != _HOME:
        _HOME = os.getpid()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(1)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            warnings.warn("CUDA was initialised before the fork: use multiprocess.set_start_method('spawn')", stacklevel=2)
