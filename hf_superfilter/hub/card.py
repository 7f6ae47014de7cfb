"""The dataset card: one section for every published split, and the YAML that makes it load by name."""

import json
from collections.abc import Mapping
from typing import Any

from ..errors import did_you_mean
from ..reports.jinja import as_markdown, render
from .front_matter import body_of, read_metadata, set_metadata, set_section

TAGS = ["hf_superfilter", "superfilter"]
NO_DERIVATIVES = "-nd-"  # the Creative Commons licences that forbid to share an adapted work
UNKNOWN_LICENCES = {"other", "unknown"}
SIZES = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
# Scorer or selector, as an entry of a recipe names it -> the papers behind it.
PAPERS = {
    "AskLLM": ["2402.09668"],
    "IFD": ["2402.00530", "2308.12032"],
    "LearningPercentage": ["2402.10430"],
    "Perplexity": ["2402.09668"],
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
    "2402.00530": "Li et al., Superfiltering: Weak-to-Strong Data Filtering for Fast Instruction-Tuning, ACL 2024",
    "2308.12032": "Li et al., From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection "
    "for Instruction Tuning, NAACL 2024",
    "2402.10430": "Mekala et al., Smaller Language Models are capable of selecting Instruction-Tuning Training Data "
    "for Larger Language Models, Findings of ACL 2024",
    "2402.09668": "Sachdeva et al., How to Train Data-Efficient LLMs, 2024",
    "2402.04833": "Zhao et al., Long Is More for Alignment: A Simple but Tough-to-Beat Baseline for Instruction "
    "Fine-Tuning, ICML 2024",
    "2303.09540": "Abbas et al., SemDeDup: Data-efficient Learning at Web-scale through Semantic Deduplication, 2023",
    "2206.14486": "Sorscher et al., Beyond Neural Scaling Laws: Beating Power Law Scaling via Data Pruning, "
    "NeurIPS 2022",
    "1908.10084": "Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, EMNLP 2019",
}


def licence_warning(licence: Any) -> str | None:
    """What has to be said loudly about a source's licence, None where there is nothing.

    Example:
        >>> licence_warning("cc-by-nc-nd-4.0")[:56]
        'the source is under cc-by-nc-nd-4.0, which forbids to sh'
        >>> licence_warning("apache-2.0")
    """
    known = [str(one) for one in (licence if isinstance(licence, list) else [licence]) if one]
    forbids = next((one for one in known if NO_DERIVATIVES in f"{one.lower()}-"), None)
    if forbids:
        return f"the source is under {forbids}, which forbids to share adapted versions: do not publish a part of it"
    unknown = next((one for one in known if one.lower() in UNKNOWN_LICENCES), None)
    if unknown or not known:
        stated = f"is stated as {unknown!r}" if unknown else "is not known"
        return f"the licence of the source {stated}: find out whether you may publish a part of it before you do"
    return None


def merged_card(
    text: str, name: str, splits: Mapping[str, Mapping[str, Any]], home: str, set_default: bool
) -> str:
    """A repository's card with some splits of one subset published or replaced, and everything else as it was.

    Args:
        text: the card that is there, "" where there is none.
        name: the subset.
        splits: split -> what `repo_files.write_split` says of it.
        home: the repository, or the folder, that the card's code loads from.
        set_default: make the subset the one that loads without a name.

    Raises:
        ValueError: the name belongs to a subset that is not of ours, it would be a second default, or
            another split of it has other columns.
    """
    old = read_metadata(text)
    configs = _configs(old, name, splits, set_default)
    infos = _infos(old, name, splits)
    shared: dict[str, Any] = {
        "configs": configs,
        "dataset_info": infos if len(infos) > 1 else infos[0],
    }
    for key, values in (
        ("tags", TAGS),
        ("language", [x for split in splits.values() for x in split["language"]]),
        ("source_datasets", [x for split in splits.values() for x in split["source_datasets"]]),
        ("base_model", [x for split in splits.values() for x in split["base_model"]]),
    ):
        before = listed(old.get(key))
        added = [value for value in dict.fromkeys(values) if value not in before]
        if added:
            shared[key] = before + added
    licence = next((split["license"] for split in splits.values() if split["license"]), None)
    if licence and not old.get("license"):
        shared["license"] = licence
    if {info.get("config_name", "default") for info in infos} >= {
        config["config_name"] for config in configs
    }:
        shared["size_categories"] = [_size_category(sum(rows_of(info) or 0 for info in infos))]
    text = set_metadata(text, shared)
    if not body_of(text).strip():
        text += f"# {as_markdown(home.rstrip('/').split('/')[-1])}\n"
    for split, facts in splits.items():
        text = set_section(text, f"{name}/{split}", section(name, split, facts, home))
    return text


def section(name: str, split: str, facts: Mapping[str, Any], home: str) -> str:
    """The Markdown about one split of a subset; what is not known reads "not recorded"."""
    kinds = [
        entry for part in [*facts["scorers"], *facts["steps"]] for entry in part.get("entry") or {}
    ]
    papers = list(dict.fromkeys(paper for kind in kinds for paper in PAPERS.get(kind, [])))
    where = json.dumps(home, ensure_ascii=False)  # a folder may have any name
    load = f'from datasets import load_dataset\n\nrows = load_dataset({where}, "{name}", split="{split}")'
    chosen = "" if split == "train" else f', split="{split}"'
    run = name if split == "train" else f"{name}-{split}"
    again = (
        "from hf_superfilter import load_recipe\n\n"
        f'selection = load_recipe({where}, "{name}"{chosen}).run("runs/{run}")\nrows = selection.subset'
    )
    return render(
        "dataset.md.j2",
        name=name,
        split=split,
        load_code=load,
        again_code=again,
        kinds=kinds,
        papers=[{"id": paper, "title": TITLES[paper]} for paper in papers],
        warning=licence_warning(facts["license"]),
        **facts,
    )


def default_of(metadata: Mapping[str, Any]) -> str | None:
    """The subset that loads without a name, as `datasets` decides it; None where a name is needed."""
    configs = configs_of(metadata)
    names = [str(config["config_name"]) for config in configs]
    marked = [str(config["config_name"]) for config in configs if config.get("default")]
    return next(
        iter([*marked, *(n for n in names if n == "default"), *(names if len(names) == 1 else [])]),
        None,
    )


def check_subset(name: str, known: list[str], home: str) -> None:
    """Refuse a subset that a repository does not have."""
    if name not in known:
        raise ValueError(f"{home!r} has no subset {name!r}: {did_you_mean(name, known)}")


def configs_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies of the card's `configs`, its subsets.

    Raises:
        ValueError: one that `datasets` could not load either.
    """
    return _entries(metadata, "configs", ("config_name",))


def infos_of(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Copies of the entries of the card's `dataset_info`; one without a config_name is about the subset `default`.

    Raises:
        ValueError: one that `datasets` could not read either.
    """
    return _entries(metadata, "dataset_info", ())


def _entries(metadata: Mapping[str, Any], key: str, needs: tuple[str, ...]) -> list[dict[str, Any]]:
    for entry in (entries := listed(metadata.get(key))):
        if not isinstance(entry, dict) or not {*needs} <= {*entry}:
            needed = "".join(f" with a {name}" for name in needs)
            raise ValueError(
                f"README.md has {str(entry)[:60]!r} under {key!r}, and needs a mapping{needed}: mend it"
            )
    return [dict(entry) for entry in entries]


def own_splits(config: Mapping[str, Any]) -> list[str]:
    """The splits of a subset that hf_superfilter published: their files lie where only it writes them."""
    name, files = (
        config["config_name"],
        [file for file in listed(config.get("data_files")) if isinstance(file, dict)],
    )
    return [
        file["split"] for file in files if file.get("path") == _files_of(name, file.get("split"))
    ]


def listed(value: Any) -> list[Any]:
    """A value of the card's YAML that may be one, several or none, as a list."""
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _files_of(name: str, split: Any) -> str:
    return f"{name}/{split}/*.parquet"


def _configs(
    old: Mapping[str, Any], name: str, splits: Mapping[str, Any], set_default: bool
) -> list[dict[str, Any]]:
    """The card's `configs` with these splits in one of them; the others, and its own other keys, as they were."""
    configs = configs_of(old)
    mine = next((config for config in configs if config.get("config_name") == name), None)
    if mine is None:
        configs.append(mine := {"config_name": name, "data_files": []})
    files = mine.get("data_files")
    if not isinstance(files, list) or len(own_splits(mine)) < len(files):
        raise ValueError(
            f"the repository has a subset {name!r} that was not published by hf_superfilter: choose another name"
        )
    published = {split: {"split": split, "path": _files_of(name, split)} for split in splits}
    mine["data_files"] = list(({file["split"]: file for file in files} | published).values())
    if (
        set_default or len(configs) == 1
    ):  # the first stays what loads without a name when others come
        for config in configs:
            config.pop("default", None)
        mine["default"] = True
    defaults = [
        str(c["config_name"]) for c in configs if c.get("default") or c["config_name"] == "default"
    ]
    if len(set(defaults)) > 1:
        remedy = (
            "give the new one another name"
            if name == "default"
            else "the one named so is the default as it is"
        )
        both = " and ".join(map(repr, defaults))
        raise ValueError(
            f"the repository would have two default subsets, {both}, and load neither: {remedy}"
        )
    return configs


def _infos(
    old: Mapping[str, Any], name: str, splits: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The card's `dataset_info` as a list, with these splits in their subset's."""
    infos = infos_of(old)
    mine = next((info for info in infos if info.get("config_name", "default") == name), None)
    if mine is None:
        infos.append(mine := {"config_name": name})
    there = {entry["name"]: entry for entry in mine.get("splits") or []}
    features = {split: mine.get("features") for split in there if split not in splits}
    features |= {split: facts["features"] for split, facts in splits.items()}
    first, *others = features
    for other in others:
        if features[other] != features[first]:
            raise ValueError(
                f"the splits {first!r} and {other!r} of {name!r} have different columns and would not load together: "
                "publish them in one call with equal columns, or under different names"
            )
    sizes = {
        s: {"name": s, "num_bytes": f["num_bytes"], "num_examples": f["kept"]}
        for s, f in splits.items()
    }
    mine.update(features=features[first], splits=list((there | sizes).values()))
    mine.pop("download_size", None)  # of the files that were there before
    mine["dataset_size"] = sum(entry["num_bytes"] for entry in mine["splits"])
    return infos


def rows_of(info: Mapping[str, Any]) -> int | None:
    """The rows of all splits that an entry of the card's `dataset_info` states, None where it states none."""
    splits = [split for split in listed(info.get("splits")) if isinstance(split, dict)]
    return sum(split.get("num_examples", 0) for split in splits) or None


def _size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    digits = max(0, len(str(rows)) - 3)  # 0 below a thousand
    bounds = ["", *SIZES, ""][digits : digits + 2] if digits <= len(SIZES) else [SIZES[-1], ""]
    return (
        f"n<{bounds[1]}"
        if not bounds[0]
        else f"{bounds[0]}<n<{bounds[1]}"
        if bounds[1]
        else f"n>{bounds[0]}"
    )
