"""Score with a model behind a server that tells the log-probabilities of a prompt's tokens.

    window: ids ──► server ──► log p(id_t | ids before t) for every t ──► mean over scored tokens

Token ids are sent, made by the model's own tokenizer here, so that borders and front tokens are
those of a local model and the server has nothing to tokenize. Two ways to ask are tried with one
probe: vLLM's `prompt_logprobs`, whose answer names the token ids, and the `echo` of OpenAI's
completions. The probe's answer has to be about the very tokens that were sent; a server that
answers without prompt log-probabilities is refused, and never scored at chance. So is one whose
echo gives each token the log-probability that it has after itself, as llama-cpp-python's does for
models without a token in front: two prompts that differ in their last token alone tell.

    "... is wet?"    what is likeliest in place of the "?" is the same for both,
    "... is wet!"    unless the server has read the "?" before

And so is one that tells logits, as vLLM does with `--logprobs-mode raw_logits`; those of GPT-2 are
all below 0, as log-probabilities are. The likeliest of V tokens has 1 / V at least.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from ...embedded import model_folder, portable_name
from ...errors import NotFoundError, SuperfilterError
from ...revisions import resolve_revision
from ..loading import NO_LIMIT, hub_revision, load_config, load_tokenizer, window_of
from ..tokenization import Window, WindowReader, mean_by_window
from .openai_client import (
    BLANKS,
    FailedError,
    RefusedError,
    ask_all,
    open_client,
    read_answer,
)
from .prompt_routes import ROUTES, Echo, PromptRoute, WrongAnswerError

# Longer than the blocks of 16 or 32 tokens by which servers keep what they have read.
PROBE = (
    "Water is wet, and the sky is blue. Grass is green in spring and yellow in a dry summer, and "
    "snow is white until many people have walked on it. Is water wet?"
)
MOST_DIFFERENT = 0.1  # of the tokens that an echo spells, as decoders tidy up some
BYTE_SPELLINGS = ("bytes:", "<0x")
SAME_NATS = 0.1  # between two requests, as batches and number formats differ
LEAST_LOGPROB = -1_000.0  # vLLM and OpenAI tell -9999 of what they do not know
MOST_LOGPROB = 1e-3  # 0, as rounded
NO_PROMPT_LOGPROBS = (
    "the server at {} does not tell the log-probabilities of a prompt's tokens ({}): serve the "
    "model with vLLM, or with another server whose completions take echo and logprobs, or score "
    "with a model here"
)
NO_LOGPROBS = "some are no log-probabilities, {:.4g} for one"


class RemoteLM:
    """Compute losses of windows by a causal language model behind an endpoint.

    It has the two methods of `CausalLM` that scorers of losses call.

    Args:
        endpoint: the server's address, up to and with `/v1`.
        model: the name by which it knows the model.
        tokenizer: the model's.
        source: the Hub id or folder that the tokenizer comes from.
        revision: the tokenizer's, resolved.
    """

    def __init__(
        self, endpoint: str, model: str, tokenizer: Any, source: str, revision: str
    ) -> None:
        self.endpoint, self.model = endpoint, model
        self.tokenizer = tokenizer
        self.tokenizer_name, self.tokenizer_revision = portable_name(source), revision
        try:
            window = window_of(load_config(source, hub_revision(revision)))
        except NotFoundError:  # a folder with nothing but a tokenizer
            window = NO_LIMIT
        self.windows = WindowReader(model, tokenizer, window).windows
        self.route = self._find_route()

    def losses(
        self, windows: Sequence[Window], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean loss of the scored tokens of each window, as `CausalLM` does."""
        nats, counts = self.token_losses(windows, batch_tokens)
        return mean_by_window(nats, counts), counts

    def token_losses(
        self, windows: Sequence[Window], batch_tokens: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of every scored token, window by window.

        Args:
            windows: n windows of any lengths.
            batch_tokens: not read; the server batches.

        Returns:
            (tokens,) float64 nats, and (n,) int64 how many of them belong to each window.

        Raises:
            ConnectionError: it cannot be reached, or still fails after all retries.
            ValueError: it refuses a window, or answers about other tokens than were sent.
            PermissionError: it wants a key, or another one.
        """
        counts = np.array([window.scored for window in windows], dtype=np.int64)
        scored = [windows[i] for i in np.flatnonzero(counts).tolist()]
        if not scored:
            return np.zeros(0), counts
        nats: dict[int, np.ndarray] = {}
        ask_all(self.endpoint, scored, self._nats, nats.__setitem__)
        return np.concatenate([nats[number] for number in range(len(scored))]), counts

    def _nats(self, client: Any, window: Window) -> np.ndarray:
        ids = [int(number) for number in window.ids]
        return -self._logprobs(client, self.route, ids)[window.start :]

    def _logprobs(self, client: Any, route: PromptRoute, ids: list[int]) -> np.ndarray:
        """Return the log-probability of every token; nan for the first and where none is known."""
        return self._read(route, self._choice(client, route, ids), ids)

    def _read(
        self, route: PromptRoute, choice: Mapping[str, Any], ids: Sequence[int]
    ) -> np.ndarray:
        """Read the log-probabilities of the tokens that were sent, and check them."""
        try:
            logprobs = np.array(route.logprobs(choice, ids), dtype=float)
            self._check_spelling(route.spellings(choice, ids), ids)
        except WrongAnswerError as error:
            raise WrongAnswerError(
                f"the server at {self.endpoint} answers about other tokens than were sent "
                f"({error}): check that {self.tokenizer_name!r} is the tokenizer of {self.model!r}"
            ) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(NO_PROMPT_LOGPROBS.format(self.endpoint, error)) from error
        if (logprobs[1:] > MOST_LOGPROB).any():
            self._refuse_numbers(NO_LOGPROBS.format(np.nanmax(logprobs[1:])))
        logprobs[~(logprobs > LEAST_LOGPROB)] = math.nan
        return logprobs

    def _refuse_numbers(self, reason: str) -> NoReturn:
        raise NoLogprobsError(NO_PROMPT_LOGPROBS.format(self.endpoint, reason))

    def _check_spelling(self, spelled: Sequence[Any], ids: Sequence[int]) -> None:
        """Refuse an answer whose tokens, where it spells them, are other ones than were sent.

        Special tokens and parts of characters are spelled in many ways, and so not compared.
        """
        compared, different = 0, []
        for number, text in zip(ids, spelled, strict=False):
            if not isinstance(text, str):
                continue
            own = self.tokenizer.decode([number]).strip()
            told = text.translate(BLANKS).strip()
            if not own or not told or "\ufffd" in own + told or told.startswith(BYTE_SPELLINGS):
                continue
            compared += 1
            if told not in (own, f"token_id:{number}"):
                different.append(f"{told!r} where {own!r} was sent")
        if len(different) > MOST_DIFFERENT * compared:
            raise WrongAnswerError(different[0])

    def _choice(self, client: Any, route: PromptRoute, ids: list[int]) -> Mapping[str, Any]:
        """Return what the server says of a prompt."""
        answer = read_answer(
            self.endpoint,
            self.model,
            lambda: client.completions.with_raw_response.create(
                model=self.model, prompt=ids, temperature=0, **route.options
            ),
        )
        try:
            choice: Mapping[str, Any] = answer["choices"][0]
        except (LookupError, TypeError) as error:
            raise RefusedError(
                NO_PROMPT_LOGPROBS.format(self.endpoint, "the answer holds no choices")
            ) from error
        return choice

    def _find_route(self) -> PromptRoute:
        """Find out with few probes how the server can be asked."""
        ids = [int(number) for number in self.windows([""], [PROBE])[0].given.ids]
        refusals: list[Exception] = []
        with open_client(self.endpoint, retries=2) as client:  # a wrong address is soon reported
            for route in ROUTES:
                try:
                    self._check_route(client, route, ids)
                except NoLogprobsError:  # another way to ask makes its numbers no better
                    raise
                except (RefusedError, FailedError, WrongAnswerError) as error:
                    refusals.append(error)
                else:
                    return route
        raise self._refusal(refusals)

    def _check_route(self, client: Any, route: PromptRoute, ids: list[int]) -> None:
        """Refuse a route whose numbers of the probe are not known, logits, or others again.

        vLLM's issue 42019: of a text that it has read before, its beginning has old numbers.
        """
        first = self._logprobs(client, route, ids)
        if np.isnan(first[1:]).any():
            self._refuse_numbers("of some it knows none")
        telling = route.with_likeliest()
        choice = self._choice(client, telling, ids)
        numbers, likeliest = self._read(telling, choice, ids), self._likeliest(telling, choice, ids)
        if not np.abs(numbers - first)[1:].max() <= SAME_NATS:
            self._refuse_numbers("asked again about one text it tells other numbers")
        least = -math.log(len(self.tokenizer)) - 1  # a server may pad the vocabulary
        odd = likeliest[(likeliest < least) | (likeliest > MOST_LOGPROB)]
        if len(odd):
            self._refuse_numbers(NO_LOGPROBS.format(odd[0]))
        if isinstance(route, Echo):
            self._check_echo(client, telling, ids, numbers, likeliest[-1])

    def _check_echo(
        self, client: Any, route: PromptRoute, ids: list[int], numbers: np.ndarray, likeliest: float
    ) -> None:
        """Refuse a server whose log-probabilities belong to the tokens before or after them.

        The last token of a prompt changes its own number and no earlier one. A server that does not
        tell the likeliest tokens cannot be checked for numbers of the token after.

        Args:
            client: of the server.
            route: on which it tells the likeliest tokens too.
            ids: of the probe.
            numbers: what it says of them.
            likeliest: and of the likeliest in the last one's place; nan where it does not.
        """
        other = [*ids[:-1], ids[0]]
        choice = self._choice(client, route, other)
        changes = np.abs(self._read(route, choice, other) - numbers)
        if changes[1:-1].max() > SAME_NATS:
            raise WrongAnswerError(
                f"the server at {self.endpoint} tells of a token what belongs to the one behind "
                "it: serve the model with vLLM, or score with a model here"
            )
        if abs(likeliest - self._likeliest(route, choice, other)[-1]) > SAME_NATS:
            raise WrongAnswerError(
                f"the server at {self.endpoint} tells of each token how likely it is after itself: "
                "serve the model with vLLM, or score with a model here"
            )

    def _likeliest(
        self, route: PromptRoute, choice: Mapping[str, Any], ids: Sequence[int]
    ) -> np.ndarray:
        """Return the log-probability of the likeliest token in every place but the first.

        Places of which the server does not tell it hold nan.
        """
        try:
            return np.array(route.likeliest(choice, ids), dtype=float)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(NO_PROMPT_LOGPROBS.format(self.endpoint, error)) from error

    def _refusal(self, refusals: Sequence[Exception]) -> Exception:
        """Choose what to report: a wrong answer, else what the plainest way to ask met."""
        for error in refusals:
            if isinstance(error, WrongAnswerError):
                return error
        last = refusals[-1]
        if isinstance(last, FailedError):
            return FailedError(
                f"{last}; if it answers other requests, it takes no token ids: serve the model "
                "with vLLM, or score with a model here"
            )
        return SuperfilterError(str(last))

    def provenance(self) -> dict[str, Any]:
        """Return what the manifest records: the server, how it was asked, and the tokenizer.

        The server does not say on what it runs, and which weights.
        """
        return {
            "model": self.model,
            "revision": "chosen by the server",
            "device": self.endpoint,
            "dtype": "chosen by the server",
            "asked": f"completions with {self.route.name}",
            "tokenizer": self.tokenizer_name,
            "tokenizer_revision": self.tokenizer_revision,
        }


@lru_cache(maxsize=4)
def load_remote_lm(endpoint: str, model: str, tokenizer: str, revision: str | None) -> RemoteLM:
    """Return the one `RemoteLM` of these settings, once per process."""
    folder = model_folder(tokenizer)
    try:
        resolved = resolve_revision(folder, revision)
        loaded = load_tokenizer(folder, hub_revision(resolved))
    except (OSError, ValueError) as error:
        raise SuperfilterError(
            f"the tokenizer of the served model {model!r} cannot be loaded "
            f"({' '.join(str(error).split())[:200]}): name it with tokenizer=, a Hub id or a folder"
        ) from error
    return RemoteLM(endpoint, model, loaded, folder, resolved)


class NoLogprobsError(RefusedError):
    """Report that numbers of a server are no log-probabilities."""
