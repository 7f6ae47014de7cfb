"""Train the embedded models: `python -m scripts.embedded.train --data ../shared/data`.

Makes the folders `weak` and `strong` (GPT-2 architecture, one byte-level BPE tokenizer), each with
a model card and `training.jsonl`, the log of loss against tokens. Fixed seed; a killed training
goes on from its last checkpoint in `--work`.

On one core of an AMD EPYC (Zen 4) `weak` takes 102 minutes from fresh weights. `strong` takes 109
on two cores (`--only strong --threads 2`), and then measures as the weights of the package do,
which went on from those of commit f119ed1 for 108 minutes of one core (`--start-from OLD --minutes
108`); docs/consistency.md has both. Two quiet cores read 3,900 of its tokens a second, one 2,100.

Made for a CPU with bfloat16 products (avx512_bf16): one thread a model, so that two models train
side by side on two cores and neither waits for the other; short windows; attention as plain matrix
products, compiled; a head that never holds the logits of more than 512 tokens. Large blocks should
stay in the heap:
`MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 python -m ...`.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from scripts.embedded.card import EMBEDDED, read_log, write_card
from scripts.embedded.corpus import documents

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

VOCABULARY, WINDOW, END = 8_192, 1_024, "<|endoftext|>"
# Window lengths of successive batches: short ones are cheap, long ones train the late positions.
WINDOWS = (256, 512, 256, 512, 256, 512, 256, 1_024)
MICRO_BATCH = 2_048  # tokens whose activations fit the cache
HEAD_CHUNK = 512  # tokens whose logits fit the cache
SAVE_SECONDS = 300.0  # between two checkpoints at most
HELD_OUT_WINDOWS = 64  # measured every hundred steps


@dataclass(frozen=True)
class Plan:
    """A model's shape and schedule: linear warm-up, constant rate, linear cool-down to zero."""

    layers: int
    width: int
    heads: int
    tokens: int
    learning_rate: float = 3e-3
    batch_tokens: int = 4_096
    warm_up: int = 50
    cool_down: float = 0.6
    repeats: float = 0.5  # share of windows that repeat a passage at the start; it falls to zero
    seed: int = 0


PLANS = {
    "weak": Plan(layers=4, width=128, heads=4, tokens=34_000_000),
    "strong": Plan(layers=6, width=256, heads=8, tokens=22_000_000, learning_rate=2e-3),
}


def train_tokenizer(texts: list[str]) -> "PreTrainedTokenizerBase":
    """Train a byte-level BPE tokenizer of 8,192 entries that adds no special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, bos_token=END, unk_token=END, model_max_length=WINDOW
    )


def tokenise(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    """Return all documents end to end, (tokens,) uint16, each followed by the end-of-text token."""
    pieces = []
    for i in range(0, len(texts), 1_000):
        for ids in tokenizer(texts[i : i + 1_000], verbose=False)["input_ids"]:
            pieces.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16))
    return np.concatenate(pieces)


class NextTokenLoss(torch.autograd.Function):
    """Mean next-token loss, computed with its gradients a chunk of tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of (tokens, width) states, a scalar in nats."""
        count = len(hidden)
        loss = torch.zeros(())
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape)
        for start in range(0, count, HEAD_CHUNK):
            chunk = hidden[start : start + HEAD_CHUNK]
            wanted = targets[start : start + HEAD_CHUNK, None]
            log_probabilities = torch.log_softmax((chunk @ head.t()).float(), dim=-1)
            loss -= log_probabilities.gather(1, wanted).sum()
            # d loss / d logits = probabilities − one at the target
            gradient = log_probabilities.exp_()
            gradient.scatter_add_(1, wanted, torch.full(wanted.shape, -1.0))
            gradient = gradient.mul_(1 / count).to(hidden.dtype)
            hidden_gradient[start : start + HEAD_CHUNK] = gradient @ head
            head_gradient += gradient.t() @ chunk
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return loss / count

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients that the forward pass left, scaled."""
        hidden_gradient, head_gradient = ctx.saved_tensors
        scale = upstream.item()
        return hidden_gradient * scale, head_gradient.to(hidden_gradient.dtype) * scale, None


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Apply causal attention to (batch, heads, length, size) tensors as plain products.

    Compiled, and at 256 tokens, training is a fifth faster with it than with
    `scaled_dot_product_attention` (one core of a Zen 4 CPU).
    """
    length = query.shape[2]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    weights = scores.masked_fill(~earlier, -1e9).softmax(-1)
    return weights.to(query.dtype) @ value


def layer(hidden: torch.Tensor, weights: list[torch.Tensor], heads: int) -> torch.Tensor:
    """Apply one GPT-2 layer to (batch, length, width); the weights in the order of `LAYER`."""
    norm_1, shift_1, in_weight, in_bias, out_weight, out_bias, *rest = weights
    norm_2, shift_2, up_weight, up_bias, down_weight, down_bias = rest
    batch, length, width = hidden.shape
    normed = functional.layer_norm(hidden, (width,), norm_1, shift_1).view(-1, width)
    parts = torch.addmm(in_bias, normed, in_weight).view(batch, length, 3, heads, width // heads)
    query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
    attended = attend(query, key, value).transpose(1, 2).reshape(-1, width)
    hidden = hidden + torch.addmm(out_bias, attended, out_weight).view_as(hidden)
    normed = functional.layer_norm(hidden, (width,), norm_2, shift_2).view(-1, width)
    inner = functional.gelu(torch.addmm(up_bias, normed, up_weight), approximate="tanh")
    return hidden + torch.addmm(down_bias, inner, down_weight).view_as(hidden)


LAYER = [
    f"{part}.{kind}"
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
]


@cache
def compiled_layer() -> Any:
    """Return the layer, compiled for each window length that it meets."""
    return torch.compile(layer, dynamic=False)


def loss_of(model: "GPT2LMHeadModel", windows: torch.Tensor, compiled: bool = True) -> torch.Tensor:
    """Return the mean next-token loss in nats over (batch, length + 1) windows, in bfloat16.

    The forward pass of `GPT2LMHeadModel` written out, to be compiled and to chunk its head.
    """
    weights = {
        name.removeprefix("transformer."): parameter.to(torch.bfloat16)
        for name, parameter in model.named_parameters()
    }
    ids, targets = windows[:, :-1], windows[:, 1:].reshape(-1)
    hidden = (
        functional.embedding(ids, weights["wte.weight"]) + weights["wpe.weight"][: ids.shape[1]]
    )
    apply = compiled_layer() if compiled else layer
    for i in range(model.config.n_layer):
        hidden = apply(hidden, [weights[f"h.{i}.{name}"] for name in LAYER], model.config.n_head)
    width = hidden.shape[-1]
    hidden = functional.layer_norm(hidden, (width,), weights["ln_f.weight"], weights["ln_f.bias"])
    return NextTokenLoss.apply(hidden.view(-1, width), weights["wte.weight"], targets)


def learning_rate(plan: Plan, step: int, progress: float) -> float:
    """Return the rate of a step: linear warm-up, constant, linear cool-down to zero."""
    up = (step + 1) / plan.warm_up
    down = (1 - progress) / plan.cool_down
    return plan.learning_rate * max(min(1.0, up, down), 0.0)


def make_optimisers(model: "GPT2LMHeadModel", plan: Plan) -> list[torch.optim.Optimizer]:
    """Make Muon for the matrices inside the layers, AdamW for embeddings, biases and norms."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        torch.optim.Muon(
            inside, lr=plan.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def new_model(plan: Plan) -> Any:
    """Make a GPT-2 of the plan's shape with fresh weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(plan.seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=WINDOW,
        n_layer=plan.layers, n_embd=plan.width, n_head=plan.heads,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def batch_of(source: np.ndarray, number: int, plan: Plan, length: int) -> torch.Tensor:
    """Return the (batch, length + 1) windows of a step; the stream goes round at its end."""
    start = number * plan.batch_tokens % (len(source) - plan.batch_tokens - WINDOW)
    ids = torch.from_numpy(source[start : start + plan.batch_tokens + 1].astype(np.int64))
    return ids.unfold(0, length + 1, length)


def with_repeats(windows: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Return the windows, a share of which repeat a passage of theirs to the end.

    Copying from the context is what makes a prompt help its response, and small models are slow to
    learn it from prose alone. In half of the repeated passages the tokens are shuffled, so that
    nothing but the context predicts them.
    """
    rng = np.random.default_rng(seed)
    windows = windows.clone()
    length = windows.shape[1]
    for window in windows:
        if rng.random() >= share:
            continue
        size = int(rng.integers(8, length // 2))
        passage = window[:size].clone()
        if rng.random() < 0.5:
            passage = passage[torch.from_numpy(rng.permutation(size))]
        gap = window[size : size + int(rng.integers(0, size))]
        copies = torch.cat([passage, gap]).repeat(length // size + 1)
        window.copy_(copies[:length])
    return windows


class Training:
    """A model being trained, with what a checkpoint keeps of it."""

    def __init__(
        self, plan: Plan, checkpoint: Path, start_from: Path | None = None, compiled: bool = True
    ) -> None:
        self.plan, self.model, self.step, self.seconds = plan, new_model(plan), 0, 0.0
        self.compiled = compiled
        if start_from is not None:
            from safetensors.torch import load_file

            self.model.load_state_dict(load_file(start_from / "model.safetensors"), strict=False)
        self.optimisers = make_optimisers(self.model, plan)
        self.log: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.checkpoint = checkpoint
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=False)
            self.model.load_state_dict(state["model"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.log, self.seconds = state["step"], state["log"], state["seconds"]
            self.losses = state.get("losses", [])
        self.began, self.saved = time.monotonic() - self.seconds, self.seconds

    def progress(self, minutes: float) -> float:
        """Return the share done: of the tokens, or of the time where that is more."""
        self.seconds = time.monotonic() - self.began
        if self.seconds >= 60 * minutes:
            return 1.0
        return max(
            self.step * self.plan.batch_tokens / self.plan.tokens, self.seconds / 60 / minutes
        )

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "log": self.log,
            "losses": self.losses,
            "seconds": self.seconds,
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)
        self.saved = self.seconds

    def record(self, held_out: np.ndarray) -> None:
        """Add the losses since the last record to the log, and write the checkpoint."""
        loss = round(sum(self.losses) / len(self.losses), 4) if self.losses else None
        self.log.append({
            "tokens": self.step * self.plan.batch_tokens,
            "loss": loss,
            "held_out_loss": round(self.held_out_loss(held_out), 4),
            "seconds": round(self.seconds, 1),
        })  # fmt: skip
        print(json.dumps(self.log[-1]), flush=True)
        self.losses = []
        self.save()

    def learn(self, windows: torch.Tensor, rate: float) -> None:
        """Take one step."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        micro_batches = windows.split(max(1, MICRO_BATCH // (windows.shape[1] - 1)))
        total = 0.0
        for micro_batch in micro_batches:
            loss = loss_of(self.model, micro_batch, self.compiled) * (
                len(micro_batch) / len(windows)
            )
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self.losses.append(total)

    @torch.no_grad()
    def held_out_loss(self, held_out: np.ndarray) -> float:
        """Return the mean loss in nats over windows of 512 spread over the held-out tokens."""
        length = WINDOW // 2
        windows = torch.from_numpy(held_out.astype(np.int64)).unfold(0, length + 1, length)
        windows = windows[:: max(1, len(windows) // HELD_OUT_WINDOWS)][:HELD_OUT_WINDOWS]
        losses = [
            loss_of(self.model, few, compiled=False).item() * len(few) for few in windows.split(4)
        ]
        return sum(losses) / len(windows)


def train_model(
    plan: Plan,
    stream: np.ndarray,
    held_out: np.ndarray,
    checkpoint: Path,
    *,
    start_from: Path | None = None,
    minutes: float = float("inf"),
    compiled: bool = True,
) -> tuple["GPT2LMHeadModel", list[dict[str, Any]]]:
    """Train one model over the token stream; return it with its log, an entry every hundred steps.

    Args:
        plan: Shape and schedule.
        stream: Training tokens, (tokens,), read round and round.
        held_out: Tokens that are only measured, (tokens,).
        checkpoint: Where the state goes; a state there is gone on from.
        start_from: A model folder to start from instead of fresh weights.
        minutes: Time allowed, earlier launches included; the cool-down ends by then at the latest.
        compiled: Whether to compile the layers: for anything but a short test.
    """
    training = Training(plan, checkpoint, start_from, compiled)
    if not training.log:
        training.record(held_out)
    while (progress := training.progress(minutes)) < 1:
        length = WINDOWS[training.step % len(WINDOWS)]
        windows = batch_of(stream, training.step, plan, length)
        windows = with_repeats(windows, plan.repeats * (1 - progress), training.step)
        training.learn(windows, learning_rate(plan, training.step, progress))
        if training.step % 100 == 0:
            training.record(held_out)
        elif training.seconds - training.saved > SAVE_SECONDS:
            training.save()
    if training.losses:
        training.record(held_out)
    return training.model, training.log


def write_model(
    folder: Path,
    model: Any,
    tokenizer: "PreTrainedTokenizerBase",
    facts: dict[str, Any],
    log: list[dict],
) -> None:
    """Write the model folder: 16-bit safetensors, tokenizer, training log, card."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    lines = [json.dumps(facts | {"parameters": model.num_parameters()})]
    (folder / "training.jsonl").write_text(
        "\n".join(lines + [json.dumps(entry) for entry in log]) + "\n"
    )
    write_card(folder)
    print(f"{folder.name}: {model.num_parameters() / 1e6:.1f}M parameters in {folder}", flush=True)


def history_of(folder: Path) -> str:
    """Return the sentence of a card that says what weights a training went on from."""
    first, log = read_log(folder)
    sentence = (
        f"It goes on from earlier weights (OLD below) that had read {log[-1]['tokens']:,} tokens."
    )
    return f"{first['history']} {sentence}" if "history" in first else sentence


def read_corpus(
    data: Path, work: Path, tokenizer: Path, passes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token stream of all passes and the held-out tokens, made on the first call."""
    from transformers import AutoTokenizer

    stream_file, held_out_file = work / "tokens.npy", work / "held_out.npy"
    if not stream_file.exists():
        reader = AutoTokenizer.from_pretrained(tokenizer)
        streams = []
        for seed in range(passes):
            texts, held_out = documents(data, seed)
            streams.append(tokenise(texts, reader))
            if seed == 0:
                np.save(held_out_file, tokenise(held_out, reader))
        np.save(stream_file, np.concatenate(streams))
    return np.load(stream_file), np.load(held_out_file)


def main() -> None:
    """Read the arguments, then train what is asked for."""
    parser = argparse.ArgumentParser(description="Train the embedded models.")
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with text/ and instruct/"
    )
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="where the model folders go")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/embedded"), help="tokens and checkpoints"
    )
    parser.add_argument("--only", choices=sorted(PLANS), help="train one of the two models")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="time allowed for each model"
    )
    parser.add_argument(
        "--passes", type=int, default=3, help="passes over the corpus, each made anew"
    )
    parser.add_argument(
        "--start-from", type=Path, help="a model folder to go on from, not fresh weights"
    )
    parser.add_argument("--note", default="", help="a sentence for the card on how it was trained")
    parser.add_argument(
        "--tokenizer", type=Path, default=EMBEDDED / "strong", help="a folder with a tokenizer"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each model")
    options = parser.parse_args()
    from transformers import AutoTokenizer

    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    stream, held_out = read_corpus(options.data, options.work, options.tokenizer, options.passes)
    print(f"{len(stream):,} tokens, {len(held_out):,} held out; e^loss is perplexity", flush=True)
    for name in [options.only] if options.only else PLANS:
        model, log = train_model(
            PLANS[name],
            stream,
            held_out,
            options.work / f"{name}.pt",
            start_from=options.start_from,
            minutes=options.minutes,
        )
        facts = {
            "plan": asdict(PLANS[name]),
            "corpus": len(stream),
            "command": f"python -m scripts.embedded.train --data ../shared/data --only {name}",
            "history": "Trained from fresh weights.",
        }
        if options.start_from is not None:
            facts["command"] += " --start-from OLD"
            facts["history"] = history_of(options.start_from)
        if options.note:
            facts["history"] += f" {options.note}"
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        write_model(options.out / name, model, tokenizer, facts, log)


if __name__ == "__main__":
    main()
