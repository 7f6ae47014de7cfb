"""Write answers with a causal language model."""

from collections.abc import Sequence

import torch

from ..embedded import model_folder
from ..revisions import resolve_revision
from .loading import hub_revision, load_tokenizer, load_weights, pick_device, window_of
from .tokenization import text_tokenizer


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
        prompts: n texts; of one that is too long for the model its last tokens are read.
        max_new_tokens: tokens of an answer at most.
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
    room = max(1, window_of(loaded.config) - max_new_tokens)
    answers = []
    for ids in reader.ids(prompts):
        read = [*reader.front, *ids][-room:]
        with torch.inference_mode():
            written = loaded.generate(
                torch.tensor([read], device=place),
                attention_mask=torch.ones((1, len(read)), dtype=torch.long, device=place),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        text = str(tokenizer.decode(written[0, len(read) :], skip_special_tokens=True))
        answers.append(text.strip())
    return answers
