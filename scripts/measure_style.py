"""Print how the code reads: `python scripts/measure_style.py`. No threshold, nothing fails.

Measured over the package without tests: what STYLE asks for (short first lines that begin with a
verb, nouns as names, some comments, few dense expressions), and what well-kept libraries of this
field show for the same measures.
"""

import argparse
import ast
import io
import statistics
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hf_superfilter"

# Names that say that something was done, and not what the thing is.
VAGUE = frozenset(
    "answer answered asked beside chosen done every found given gone here known least left made "
    "many mine more most named other others ours own picked put rest said seen shown some taken "
    "that theirs there this told what who whole".split()
)

# First words of docstrings that are verbs in the imperative.
VERBS = frozenset(
    "accept accumulate add advance align allow append apply ask assemble assign attend average "
    "batch begin bound bring broadcast build cache call cast change check choose clean clear "
    "close cluster collect combine commit compare complete compute configure connect convert "
    "copy count create cut decide decode delete describe detect determine display download draw "
    "drop embed enable encode ensure enter escape estimate evaluate exclude execute expand export "
    "extend extract fail fetch fill filter find fine-tune fit flatten follow format freeze gather "
    "generate get give group guard hand handle hash hold identify ignore import include index "
    "infer initialize insert install iterate join judge keep label launch lay leave let limit "
    "link list load locate lock log lower make map mark match mean measure merge move multiply "
    "name normalize note open order pack pad parse pick place plan plot predict prefer prepare "
    "preserve print process produce project prove publish pull push put quantize quote raise rank "
    "read rebuild recompute record reduce refuse register release remove rename render repeat "
    "replace report represent request require reserve reset reshape resolve restore resume "
    "retrieve retry return reuse reverse rewrite round run sample save scale scan schedule score "
    "search select send separate serialize serve set shape share shift show shuffle sketch skip "
    "slice smooth sort split start state stop store stream strip subtract sum summarize supply "
    "swap take tell test tile time tokenize touch track train transform translate transpose trim "
    "truncate try turn unite unpack update upload use validate verify visit wait walk warn watch "
    "weigh wrap write yield".split()
)

ANCHORS = {
    "words in a docstring's first line, median": "7-10 (semhash, httpx, datatrove)",
    "first lines that begin with a verb": "26-29%",
    "vague variable names": "under 0.1%",
    "comments per 100 lines": "about 4",
    "conditional expressions per 1,000 lines": "1-9",
    "comprehensions per 1,000 lines": "4-22",
    "lines over 100 characters": "0-4%",
}


@dataclass
class Measures:
    """What was counted in some files."""

    lines: int = 0
    long_lines: int = 0
    comments: int = 0
    conditionals: int = 0
    comprehensions: int = 0
    first_lines: list[str] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count one file."""
        lines = text.splitlines()
        self.lines += len(lines)
        self.long_lines += sum(len(line) > 100 for line in lines)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        self.comments += sum(token.type == tokenize.COMMENT for token in tokens)
        for node in ast.walk(ast.parse(text)):
            self.add_node(node)

    def add_node(self, node: ast.AST) -> None:
        """Count one node of a syntax tree."""
        if isinstance(node, ast.IfExp):
            self.conditionals += 1
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            self.comprehensions += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self.variables.append(node.id)
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                self.first_lines.append(docstring.splitlines()[0])

    def table(self) -> dict[str, str]:
        """Return the measures by name, formatted."""
        words = [len(line.split()) for line in self.first_lines] or [0]
        verbs = sum(first_word(line) in VERBS for line in self.first_lines)
        vague = sum(name.strip("_") in VAGUE for name in self.variables)
        values = (
            f"{statistics.median(words):.0f}",
            f"{verbs / max(1, len(self.first_lines)):.0%}",
            f"{vague / max(1, len(self.variables)):.1%} ({vague} of {len(self.variables):,})",
            f"{100 * self.comments / max(1, self.lines):.1f}",
            f"{1000 * self.conditionals / max(1, self.lines):.1f}",
            f"{1000 * self.comprehensions / max(1, self.lines):.1f}",
            f"{self.long_lines / max(1, self.lines):.1%}",
        )
        return dict(zip(ANCHORS, values, strict=True))


def first_word(line: str) -> str:
    """Return the first word of a docstring in lower case."""
    words = line.split()
    return words[0].strip(".,:;()`").lower() if words else ""


def measure(paths: list[Path]) -> Measures:
    """Count all files."""
    measures = Measures()
    for path in paths:
        measures.add(path.read_text(encoding="utf-8"))
    return measures


def main() -> None:
    """Print the table of the whole package, or of the folders and files that are named."""
    parser = argparse.ArgumentParser(description="Print how the code reads.")
    parser.add_argument("paths", nargs="*", type=Path, default=[PACKAGE])
    parser.add_argument("--verbose", action="store_true", help="list long first lines, vague names")
    options = parser.parse_args()
    files: list[Path] = []
    for path in options.paths:
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    measures = measure(files)
    print(f"{len(files)} files, {measures.lines:,} lines")
    for name, value in measures.table().items():
        print(f"{name:45} {value:22} {ANCHORS[name]}")
    if options.verbose:
        for line in measures.first_lines:
            if len(line.split()) > 10 or first_word(line) not in VERBS:
                print(f"  first line: {line}")
        print("  names:", ", ".join(n for n in measures.variables if n.strip("_") in VAGUE))


if __name__ == "__main__":
    main()
