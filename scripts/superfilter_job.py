# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-superfilter @ git+https://github.com/OWNER/hf-superfilter"]
# ///
"""Score a data set of the Hub with IFD, keep the best rows below 1 and publish them.

Run it on the Hub's machines, after OWNER above is the owner of your copy of this repository:

    hf jobs uv run --flavor a10g-small --secrets HF_TOKEN \\
        scripts/superfilter_job.py user/rows user/rows-superfiltered

or here with `uv run scripts/superfilter_job.py embedded:sample user/rows --model embedded:weak`.
"""

import argparse

from hf_superfilter import IFD, Recipe, Threshold, TopK


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
