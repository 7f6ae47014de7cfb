"""Write the dataset card: the YAML by which subsets load, and a section for each split."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import SuperfilterError, did_you_mean
from ..reports.jinja import as_markdown, render
from ..reports.words import format_number
from .front_matter import body_of, read_metadata, set_metadata, set_section
from .layout import about_folder, pattern_of, published_splits

TAGS = ["hf_superfilter", "superfilter"]
NO_DERIVATIVES = "-nd-"  # the Creative Commons licences that forbid to share an adapted work
UNKNOWN_LICENCES = {"other", "unknown"}
WITHOUT_MODEL = {"Combine", "Length", "Privacy"}
SIZES = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
# Scorer or selector, as an entry of a recipe names it -> the papers behind it.
PAPERS = {
    "AskLLM": ["2402.09668"],
    "Demonstration": ["2505.05327", "2312.10302"],
    "IFD": ["2402.00530", "2308.12032"],
    "LearningPercentage": ["2402.10430"],
    "Perplexity": ["2402.09668"],
    "PromptMatch": ["1807.03748"],
    "Reasoning": ["2505.17266"],
    "Length": ["2402.04833"],
    "Density": ["2402.09668"],
    "InversePropensity": ["2402.09668"],
    "SemDedup": ["2303.09540"],
    "Prototypes": ["2206.14486"],
    "FacilityLocation": ["2402.00530"],
    "Embed": ["1908.10084"],
    "PerCluster": ["2402.10430"],
}
TITLES = {
    "1807.03748": "van den Oord, Li and Vinyals, Representation Learning with Contrastive "
    "Predictive Coding, 2018",
    "2505.05327": "Yang et al., ICon: In-Context Contribution for Automatic Data Selection, 2025",
    "2505.17266": "Yang et al., Select2Reason: Efficient Instruction-Tuning Data Selection for "
    "Long-CoT Reasoning, 2025",
    "2312.10302": "Li et al., One-Shot Learning as Instruction Data Prospector for Large Language "
    "Models, ACL 2024",
    "2402.00530": "Li et al., Superfiltering: Weak-to-Strong Data Filtering for Fast "
    "Instruction-Tuning, ACL 2024",
    "2308.12032": "Li et al., From Quantity to Quality: Boosting LLM Performance with Self-Guided "
    "Data Selection for Instruction Tuning, NAACL 2024",
    "2402.10430": "Mekala et al., Smaller Language Models are capable of selecting "
    "Instruction-Tuning Training Data for Larger Language Models, Findings of ACL 2024",
    "2402.09668": "Sachdeva et al., How to Train Data-Efficient LLMs, 2024",
    "2402.04833": "Zhao et al., Long Is More for Alignment: A Simple but Tough-to-Beat Baseline "
    "for Instruction Fine-Tuning, ICML 2024",
    "2303.09540": "Abbas et al., SemDeDup: Data-efficient Learning at Web-scale through Semantic "
    "Deduplication, 2023",
    "2206.14486": "Sorscher et al., Beyond Neural Scaling Laws: Beating Power Law Scaling via Data "
    "Pruning, NeurIPS 2022",
    "1908.10084": "Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese "
    "BERT-Networks, EMNLP 2019",
}


def licence_warning(licence: Any) -> str | None:
    """Word what a source's licence demands; None where it demands nothing.

    Example:
        >>> licence_warning("cc-by-nc-nd-4.0")[:56]
        'the source is under cc-by-nc-nd-4.0, which forbids to sh'
        >>> licence_warning("apache-2.0")
    """
    licences = [str(entry) for entry in as_list(licence) if entry]
    for name in licences:
        if NO_DERIVATIVES in f"{name.lower()}-":
            return (
                f"the source is under {name}, which forbids to share adapted versions: do not "
                "publish a part of it"
            )
    for name in licences:
        if name.lower() in UNKNOWN_LICENCES:
            return _ask_about_licence(f"is stated as {name!r}")
    return None if licences else _ask_about_licence("is not known")


def _ask_about_licence(state: str) -> str:
    return (
        f"the licence of the source {state}: find out whether you may publish a part of it before "
        "you do"
    )


def merge_card(
    text: str, name: str, splits: Mapping[str, Mapping[str, Any]], home: str, set_default: bool
) -> str:
    """Add or replace splits of one subset in a card, and keep everything else.

    Args:
        text: the present card, "" where there is none.
        name: the subset.
        splits: split -> its facts, as `split_files.write_split` returns them.
        home: the repository, or the folder, that the card's code loads from.
        set_default: make the subset the one that loads without a name.

    Raises:
        SuperfilterError: the name belongs to a subset of somebody else, it would be a second
            default, or another split of it has other columns.
    """
    metadata = read_metadata(text)
    configs = _merge_configs(metadata, name, splits, set_default)
    infos = _merge_infos(metadata, name, splits)
    changes: dict[str, Any] = {
        "configs": configs,
        "dataset_info": infos if len(infos) > 1 else infos[0],
        **_merge_lists(metadata, splits.values()),
        **_inherit(metadata, splits.values(), home),
    }
    described = {info.get("config_name", "default") for info in infos}
    if described >= {config["config_name"] for config in configs}:
        rows = sum(rows_of(info) or 0 for info in infos)
        changes["size_categories"] = [_size_category(rows)]
    text = set_metadata(text, changes)
    if not body_of(text).strip():
        text += f"# {as_markdown(_last_part(home))}\n"
    for split, facts in splits.items():
        text = set_section(text, f"{name}/{split}", section(name, split, facts, home))
    return text


def _merge_lists(
    metadata: Mapping[str, Any], splits: Iterable[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Add tags, languages, tasks, sources and models to those that the card names."""
    changes = {}
    for key in ("tags", "language", "task_categories", "source_datasets", "base_model"):
        values = list(TAGS) if key == "tags" else []
        for facts in splits:
            values += facts.get(key, [])
        before = as_list(metadata.get(key))
        added = [value for value in dict.fromkeys(values) if value not in before]
        if added:
            changes[key] = before + added
    return changes


def _inherit(
    metadata: Mapping[str, Any], splits: Iterable[Mapping[str, Any]], home: str
) -> dict[str, Any]:
    """Take a title, and the source's licence with its name and link, where the card states none."""
    changes: dict[str, Any] = {}
    if not metadata.get("pretty_name"):
        changes["pretty_name"] = _last_part(home).replace("_", " ").replace("-", " ")
    licensed = next((facts for facts in splits if facts["license"]), None)
    if licensed is not None and not metadata.get("license"):
        for key in ("license", "license_name", "license_link"):
            if licensed.get(key):
                changes[key] = licensed[key]
    return changes


def _last_part(home: str) -> str:
    return home.rstrip("/").split("/")[-1]


def section(name: str, split: str, facts: Mapping[str, Any], home: str) -> str:
    """Write the Markdown about one split of a subset.

    What is not known reads "not recorded".
    """
    parts = [*facts["scorers"], *facts["steps"]]
    kinds = [kind for part in parts for kind in part.get("entry") or {}]
    scored = {kind for part in facts["scorers"] for kind in part.get("entry") or {"": None}}
    papers = list(dict.fromkeys(paper for kind in kinds for paper in PAPERS.get(kind, [])))
    where = json.dumps(home, ensure_ascii=False)  # a folder may have any name
    if split == "train":
        arguments, run = f'{where}, "{name}"', name
    else:
        arguments, run = f'{where}, "{name}", split="{split}"', f"{name}-{split}"
    return render(
        "dataset.md.j2",
        name=name,
        split=split,
        about=about_folder(name, split, facts["version"]),
        load_code=(
            "from datasets import load_dataset\n\n"
            f'rows = load_dataset({where}, "{name}", split="{split}")'
        ),
        rerun_code=(
            "from hf_superfilter import load_recipe\n\n"
            f'selection = load_recipe({arguments}).run("runs/{run}")\nrows = selection.subset'
        ),
        kinds=kinds,
        by_model=not scored or not scored <= WITHOUT_MODEL,
        papers=[{"id": paper, "title": TITLES[paper]} for paper in papers],
        warning=licence_warning(facts["license"]),
        format_number=format_number,
        **facts,
    )


def default_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the subset that loads without a name, as `datasets` decides it.

    None if none does.
    """
    configs = configs_of(metadata)
    names = [str(config["config_name"]) for config in configs]
    for config in configs:
        if config.get("default"):
            return str(config["config_name"])
    if "default" in names or len(names) == 1:
        return "default" if "default" in names else names[0]
    infos = infos_of(metadata)
    return str(infos[0].get("config_name", "default")) if len(infos) == 1 else None


def check_subset(name: str, names: list[str], home: str) -> None:
    """Refuse a subset that a repository does not have."""
    if name not in names:
        raise SuperfilterError(f"{home!r} has no subset {name!r}: {did_you_mean(name, names)}")


def configs_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copy the card's `configs`, its subsets.

    Raises:
        SuperfilterError: one that `datasets` could not load either.
    """
    return _copy_entries(metadata, "configs", ("config_name",))


def infos_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copy the card's `dataset_info`; an entry without a config_name is about `default`.

    Raises:
        SuperfilterError: one that `datasets` could not read either.
    """
    return _copy_entries(metadata, "dataset_info", ())


def _copy_entries(
    metadata: Mapping[str, Any], key: str, required: tuple[str, ...]
) -> list[dict[str, Any]]:
    entries = as_list(metadata.get(key))
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(n), str) for n in required):
            needed = "".join(f" with a {name} of text" for name in required)
            raise SuperfilterError(
                f"README.md has {str(entry)[:60]!r} under {key!r}, and needs a mapping{needed}: "
                "fix it"
            )
    return [dict(entry) for entry in entries]


def as_list(value: Any) -> list[Any]:
    """Return a value of the card's YAML that may be one, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _merge_configs(
    metadata: Mapping[str, Any],
    name: str,
    splits: Mapping[str, Mapping[str, Any]],
    set_default: bool,
) -> list[dict[str, Any]]:
    """Put splits into one of the card's `configs`.

    The others and its other keys stay.
    """
    configs = configs_of(metadata)
    present_default = default_of(metadata)
    config = next((entry for entry in configs if str(entry["config_name"]) == name), None)
    if config is None:
        config = {"config_name": name, "data_files": []}
        configs.append(config)
    files = config.get("data_files")
    if not isinstance(files, list) or len(published_splits(config)) < len(files):
        raise SuperfilterError(
            f"the repository has a subset {name!r} that was not published by hf_superfilter: "
            "choose another name"
        )
    by_split = {entry["split"]: entry for entry in files}
    for split, facts in splits.items():
        by_split[split] = {"split": split, "path": pattern_of(name, split, facts["version"])}
    config["data_files"] = list(by_split.values())
    if set_default or len(configs) == 1:
        for entry in configs:
            entry.pop("default", None)
        config["default"] = True
    elif present_default not in (None, "default"):
        # One that is the default by being alone is marked as such before another stands beside it.
        for entry in configs:
            if str(entry["config_name"]) == present_default:
                entry["default"] = True
    _check_one_default(configs, name)
    return configs


def _check_one_default(configs: list[dict[str, Any]], name: str) -> None:
    defaults = {
        str(config["config_name"])
        for config in configs
        if config.get("default") or config["config_name"] == "default"
    }
    if len(defaults) > 1:
        listed = [
            str(config["config_name"]) for config in configs if config["config_name"] in defaults
        ]
        remedy = "the one named so is the default as it is"
        if name == "default":
            remedy = "give the new one another name"
        raise SuperfilterError(
            f"the repository would have two default subsets, {' and '.join(map(repr, listed))}, "
            f"and load neither: {remedy}"
        )


def _merge_infos(
    metadata: Mapping[str, Any], name: str, splits: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Put splits into the card's `dataset_info`, as a list."""
    infos = infos_of(metadata)
    info = next((entry for entry in infos if entry.get("config_name", "default") == name), None)
    if info is None:
        info = {"config_name": name}
        infos.append(info)
    sizes = {entry["name"]: entry for entry in info.get("splits") or []}
    features = {split: info.get("features") for split in sizes if split not in splits}
    for split, facts in splits.items():
        features[split] = plain(facts["features"])
        sizes[split] = {
            "name": split,
            "num_bytes": facts["num_bytes"],
            "num_examples": facts["kept"],
        }
    first = next(iter(features))
    for other in features:
        if features[other] != features[first]:
            raise SuperfilterError(
                f"the splits {first!r} and {other!r} of {name!r} have different columns and would "
                "not load together: publish them in one call with equal columns, or under "
                "different names"
            )
    info["features"] = features[first]
    info["splits"] = list(sizes.values())
    info.pop("download_size", None)  # of the files of the version before
    info["dataset_size"] = sum(entry["num_bytes"] for entry in info["splits"])
    return infos


def plain(value: Any) -> Any:
    """Copy a value with Python's types for numpy's, as YAML and JSON need them."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def rows_of(info: Mapping[str, Any]) -> int | None:
    """Return the rows of all splits that an entry of `dataset_info` states.

    None for none.
    """
    splits = [split for split in as_list(info.get("splits")) if isinstance(split, dict)]
    return sum(split.get("num_examples", 0) for split in splits) or None


def _size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows.

    Example:
        >>> [_size_category(rows) for rows in (999, 1_000, 10**15)]
        ['n<1K', '1K<n<10K', 'n>1T']
    """
    place = len(str(rows)) - len("999")
    if place <= 0:
        return f"n<{SIZES[0]}"
    if place >= len(SIZES):
        return f"n>{SIZES[-1]}"
    return f"{SIZES[place - 1]}<n<{SIZES[place]}"
