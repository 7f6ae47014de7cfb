# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Score a data set of the Hub with IFD, keep the best rows below 1 and publish them.

`--with` says where the package comes from, since no index has it yet: your copy of its repository,
whose address SUPERFILTER_REPOSITORY holds here. On the Hub's machines:

    hf jobs uv run --flavor a10g-small --secrets HF_TOKEN \\
        --with "hf-superfilter @ git+$SUPERFILTER_REPOSITORY" \\
        scripts/superfilter_job.py user/rows user/rows-superfiltered

or in this clone with `uv run --with . scripts/superfilter_job.py embedded:sample user/rows --model
embedded:weak`.
"""

import argparse
import sys

try:
    from hf_superfilter import IFD, Recipe, Threshold, TopK
except ModuleNotFoundError as error:
    if error.name != "hf_superfilter":
        raise
    sys.exit("hf_superfilter is not installed here: say where it is, --with 'hf-superfilter @ URL'")


def main() -> None:
    """Read the arguments, run the recipe and publish what is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a data set on the Hub, or a file")
    parser.add_argument("target", help="user/name to publish to; private where it is new")
    parser.add_argument("--model", default="openai-community/gpt2", help="the scoring model")
    parser.add_argument("--k", type=float, default=0.10, help="the share of all rows to keep")
    parser.add_argument("--split", help="a split, or a part of one: train[:1000]")
    parser.add_argument("--config-name", help="the subset's name; ifd-10 where k is 0.10")
    arguments = parser.parse_args()
    recipe = Recipe(
        arguments.source,
        (IFD(arguments.model),),
        (Threshold("ifd", below=1.0), TopK("ifd", arguments.k)),
        split=arguments.split,
    )
    selection = recipe.run("run")
    if selection is not None:  # None in all processes of a launch but the main one
        name = arguments.config_name or f"ifd-{arguments.k * 100:g}"
        print(selection.push_to_hub(arguments.target, name))


if __name__ == "__main__":
    main()
