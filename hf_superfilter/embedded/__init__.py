"""Locate the small language models and the sample inside the package."""

from pathlib import Path

from ..errors import SuperfilterError, did_you_mean

HERE = Path(__file__).parent
MODELS = ("weak", "strong")
PREFIX = "embedded:"


def embedded_model(name: str = "strong") -> str:
    """Return the folder of an embedded model.

    It stands wherever a model's name does: `IFD(embedded_model("weak"))`.

    Args:
        name: `weak` (2 million parameters) or `strong` (7 million), both of GPT-2's architecture
            with a window of 1,024 tokens.
    """
    if name not in MODELS:
        raise SuperfilterError(f"no embedded model {name!r}: {did_you_mean(name, MODELS)}")
    return str(HERE / name)


def embedded_sample() -> str:
    """Return the file of the sample: instruction rows written for this project.

    Its column `planted` is empty for a good row, else the kind of defect put into it on purpose.
    """
    return str(HERE / "sample.jsonl")


def portable_name(model: str) -> str:
    """Return the name that a record shows: `embedded:weak` for the folder of that model.

    Any other name stays as it is.

    Example:
        >>> portable_name(embedded_model("weak")), portable_name("openai-community/gpt2")
        ('embedded:weak', 'openai-community/gpt2')
    """
    folder = Path(model)
    if folder.parent == HERE and folder.name in MODELS:
        return PREFIX + folder.name
    return model


def model_folder(model: str) -> str:
    """Return the folder behind `embedded:weak`, and any other name as it is."""
    if model.startswith(PREFIX):
        return embedded_model(model.removeprefix(PREFIX))
    return model
