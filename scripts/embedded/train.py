"""Train the embedded models: `python -m scripts.embedded.train --data ../shared/data`.

Makes the folders `weak` and `strong` (GPT-2 architecture, one byte-level BPE tokenizer), each with
a model card and `training.jsonl`, the log of loss against tokens. Fixed seed; a killed training
goes on from its last checkpoint in `--work`. On a CPU under glibc it runs 1.6 times as fast when
large
blocks stay in the heap:
`MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 python -m ...`.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_superfilter.runs.store import atomic_write

from .card import EMBEDDED, write_card
from .corpus import documents

if TYPE_CHECKING:
    import torch
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

VOCABULARY, WINDOW, END = 8_192, 1_024, "<|endoftext|>"
HELD_OUT_TOKENS = (
    200_000  # the last tokens of the corpus are never trained on: the loss in the log is theirs
)


@dataclass(frozen=True)
class Plan:
    """One model's shape and schedule; the learning rate rises, stays, then falls linearly to a
    twentieth.
    """

    layers: int
    width: int
    heads: int
    tokens: int
    learning_rate: float = 3e-3
    batch_tokens: int = 8_192
    warm_up: int = 100
    cool_down: float = 0.5
    seed: int = 0


PLANS = {
    "weak": Plan(layers=4, width=128, heads=4, tokens=16_000_000),
    "strong": Plan(layers=6, width=256, heads=8, tokens=22_000_000),
}


def train_tokenizer(texts: list[str]) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer of 8,192 entries that adds no special token, as GPT-2's adds none."""
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
    """All documents end to end, (tokens,) uint16, each followed by the end-of-text token."""
    pieces = []
    for i in range(0, len(texts), 1_000):
        for ids in tokenizer(texts[i : i + 1_000], verbose=False)["input_ids"]:
            pieces.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.uint16))
    return np.concatenate(pieces)


def learning_rate(plan: Plan, step: int, steps: int) -> float:
    """The rate at a step: linear warm-up, constant, linear cool-down over the last `cool_down` of
    the steps.
    """
    up = (step + 1) / plan.warm_up
    down = (steps - step) / (plan.cool_down * steps)
    return plan.learning_rate * max(min(1.0, up, down), 0.05)


def make_optimisers(model: "GPT2LMHeadModel", plan: Plan) -> list["torch.optim.Optimizer"]:
    """Muon for the matrices inside the layers, AdamW for embeddings, biases and norms."""
    import torch

    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        torch.optim.Muon(
            inside, lr=plan.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def loss_of(model: "GPT2LMHeadModel", windows: "torch.Tensor") -> "torch.Tensor":
    """Mean next-token loss in nats over (batch, length) windows; bf16 products, float32 loss."""
    import torch

    with torch.autocast("cuda" if windows.is_cuda else "cpu", dtype=torch.bfloat16):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


def new_model(plan: Plan) -> Any:
    """A GPT-2 of the plan's shape with fresh weights, on the accelerator where there is one."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(plan.seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=WINDOW, n_layer=plan.layers, n_embd=plan.width, n_head=plan.heads,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def batch_of(
    source: np.ndarray, number: int, plan: Plan, length: int, device: Any
) -> "torch.Tensor":
    """(batch, length + 1) windows of the token stream, one after another; it goes round again when
    it ends.
    """
    import torch

    start = number * plan.batch_tokens % (len(source) - plan.batch_tokens - WINDOW)
    ids = torch.from_numpy(source[start : start + plan.batch_tokens + 1].astype(np.int64))
    return ids.unfold(0, length + 1, length).to(device)


class Training:
    """A model being trained, with what a checkpoint keeps of it."""

    def __init__(self, plan: Plan, work: Path) -> None:
        import torch

        self.plan, self.model, self.step = plan, new_model(plan), 0
        self.optimisers, self.log = make_optimisers(self.model, plan), list[dict[str, Any]]()
        work.mkdir(parents=True, exist_ok=True)
        self.checkpoint = work / f"checkpoint-{plan.layers}x{plan.width}.pt"
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=False)
            self.model.load_state_dict(state["model"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.log = state["step"], state["log"]

    def save(self) -> None:
        """Write the checkpoint."""
        import torch

        state = {
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        with atomic_write(self.checkpoint) as unfinished:
            torch.save(state | {"step": self.step, "log": self.log}, unfinished)

    def learn(self, windows: "torch.Tensor", rate: float) -> float:
        """One step; returns its loss."""
        import torch

        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        loss = loss_of(self.model, windows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()


def train_model(
    plan: Plan, stream: np.ndarray, work: Path
) -> tuple["GPT2LMHeadModel", list[dict[str, Any]]]:
    """Train one model over the token stream; returns it with its log, an entry every hundred steps."""
    import torch

    training = Training(plan, work)
    device, steps = training.model.device, plan.tokens // plan.batch_tokens
    held_out, stream = stream[-HELD_OUT_TOKENS:], stream[:-HELD_OUT_TOKENS]
    began, before, losses = (
        time.time(),
        training.log[-1]["seconds"] if training.log else 0.0,
        list[float](),
    )
    while training.step < steps:
        # Every fourth batch fills the whole window, so that late positions are trained too.
        length = WINDOW if training.step % 4 == 3 else WINDOW // 2
        windows = batch_of(stream, training.step, plan, length, device)
        losses.append(training.learn(windows, learning_rate(plan, training.step, steps)))
        if training.step % 100 == 0 or training.step == steps:
            with torch.no_grad():
                tests = [batch_of(held_out, i, plan, WINDOW // 2, device) for i in range(10)]
                test = sum(loss_of(training.model, windows).item() for windows in tests) / len(
                    tests
                )
            training.log.append({
                "tokens": training.step * plan.batch_tokens, "loss": round(sum(losses) / len(losses), 4),
                "held_out_loss": round(test, 4), "seconds": round(before + time.time() - began, 1),
            })  # fmt: skip
            print(json.dumps(training.log[-1]), flush=True)
            losses = []
        if training.step % 200 == 0:
            training.save()
    return training.model, training.log


def write_model(
    name: str, model: Any, tokenizer: "PreTrainedTokenizerBase", log: list[dict], out: Path
) -> None:
    """The model folder: 16-bit safetensors, tokenizer, training log."""
    import torch

    folder = out / name
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    lines = [json.dumps({"plan": asdict(PLANS[name]), "parameters": model.num_parameters()})]
    (folder / "training.jsonl").write_text(
        "\n".join(lines + [json.dumps(entry) for entry in log]) + "\n"
    )
    write_card(folder)
    print(f"{name}: {model.num_parameters() / 1e6:.1f}M parameters in {folder}", flush=True)


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
        "--share", type=float, default=1.0, help="share of the planned tokens, for a first version"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    import torch
    from transformers import AutoTokenizer

    stream_file, tokenizer_folder = options.work / "tokens.npy", options.work / "tokenizer"
    if not stream_file.exists():
        texts = [text for _, text in documents(options.data, seed=0)]
        tokenizer = train_tokenizer(texts)
        tokenizer.save_pretrained(tokenizer_folder)
        np.save(stream_file, tokenise(texts, tokenizer))
    tokenizer, stream = AutoTokenizer.from_pretrained(tokenizer_folder), np.load(stream_file)
    print(
        f"{len(stream):,} tokens; {torch.get_num_threads()} threads; e^loss is perplexity",
        flush=True,
    )
    for name in [options.only] if options.only else PLANS:
        plan = PLANS[name]
        plan = Plan(**{**asdict(plan), "tokens": int(plan.tokens * options.share)})
        model, log = train_model(plan, stream, options.work)
        write_model(name, model, tokenizer, log, options.out)


if __name__ == "__main__":
    main()
