"""Small language models and a sample data set inside the package: everything runs with no network."""

from pathlib import Path

from ..errors import did_you_mean

HERE = Path(__file__).parent
MODELS = ("weak", "strong")
PREFIX = "embedded:"


def embedded_model(name: str = "strong") -> str:
    """The folder of an embedded model, to be used wherever a model's name is: `IFD(embedded_model("weak"))`.

    Args:
        name: `weak` (2 million parameters) or `strong` (7 million), both GPT-2 architecture, 1,024 tokens.
    """
    if name not in MODELS:
        raise ValueError(f"no embedded model {name!r}: {did_you_mean(name, MODELS)}")
    return str(HERE / name)


def embedded_sample() -> str:
    """The file of the sample: instruction rows written for this project, with a column `planted`.

    `planted` is empty for a good row, else the kind of defect put into it on purpose.
    """
    return str(HERE / "sample.jsonl")


def portable_name(model: str) -> str:
    """`embedded:weak` for the folder of an embedded model, any other name as it is: the name that goes on record.

    Example:
        >>> portable_name(embedded_model("weak")), portable_name("openai-community/gpt2")
        ('embedded:weak', 'openai-community/gpt2')
    """
    folder = Path(model)
    return PREFIX + folder.name if folder.parent == HERE and folder.name in MODELS else model


def model_folder(model: str) -> str:
    """The other way round: the folder behind `embedded:weak`, any other name as it is."""
    return embedded_model(model.removeprefix(PREFIX)) if model.startswith(PREFIX) else model
