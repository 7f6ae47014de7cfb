"""Write answers with a causal language model."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..embedded import model_folder
from ..errors import SuperfilterError
from ..revisions import resolve_revision
from .loading import hub_revision, load_tokenizer, load_weights, pick_device, window_of
from .text_tokenizer import TextTokenizer, text_tokenizer
from .tokenization import missing_front

logger = logging.getLogger(__name__)


def generate(
    model: str,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 256,
    revision: str | None = None,
    device: str = "auto",
) -> list[str]:
    """Write the likeliest answer to each prompt, token by token.

    Args:
        model: a local folder, a Hub id, `embedded:weak` or `embedded:strong`.
        prompts: n texts; of one that is too long for the model its last tokens are read, and the
            log says so.
        max_new_tokens: tokens of an answer at most; a long prompt leaves fewer, but half of the
            model's window, if so many are asked for.
        revision: branch, tag or commit on the Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.

    Returns:
        n answers, without special tokens and white space around them.
    """
    name, place = model_folder(str(model)), pick_device(device)
    resolved = resolve_revision(name, revision)
    loaded = load_weights(name, hub_revision(resolved), torch.float32, place, None)
    tokenizer = load_tokenizer(name, resolved)
    reader = text_tokenizer(name, tokenizer)
    window, front = window_of(loaded.config), list(reader.front)
    room = max(1, window - min(max_new_tokens, window // 2) - len(front))
    texts = reader.ids(prompts)
    cut = sum(len(ids) > room for ids in texts)
    if cut:
        logger.warning(
            "%s reads only the last %d tokens of %d of the %d prompts, which are longer",
            model, room, cut, len(texts),
        )  # fmt: skip
    answers, ends = [], _ends(loaded, reader)
    for ids in texts:
        last = ids[-room:]
        # A chat's template may have written the front already: students learn behind one.
        read = [*missing_front(front, last), *last] or [_beginning(name, tokenizer)]
        with torch.inference_mode():
            written = loaded.generate(
                torch.tensor([read], device=place),
                attention_mask=torch.ones((1, len(read)), dtype=torch.long, device=place),
                max_new_tokens=min(max_new_tokens, window - len(read)),
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=tokenizer.eos_token_id,
            )
        text = str(tokenizer.decode(written[0, len(read) :], skip_special_tokens=True))
        answers.append(text.strip())
    return answers


def _ends(model: Any, reader: TextTokenizer) -> list[int] | None:
    """Return the tokens that end an answer: the model's own, and the one that students learn."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    learned = [reader.tokenizer.eos_token_id, *reader.behind[:1]]
    return sorted({int(token) for token in (*listed, *learned) if token is not None}) or None


def _beginning(name: str, tokenizer: Any) -> int:
    """Return the token that an answer to nothing begins behind."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise SuperfilterError(
        f"a prompt is empty, and the tokenizer of {name} puts nothing in front of it: leave it out"
    )
