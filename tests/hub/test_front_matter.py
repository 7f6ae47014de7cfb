"""A repository's card as text: only what is ours is written; all the rest stays byte for byte."""

import re

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_superfilter.hub.front_matter import (
    body_of,
    decode_card,
    read_metadata,
    set_metadata,
    set_section,
)

CARD = """---
# by hand
license: mit  # really
language: no
tags:
- one   # two
- "three"

configs:
  - config_name: a
    data_files: "a/*"
# at the end
---
# Rows
"""
keys = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda key: key != "language")
scalars = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(),
    st.booleans(),
    st.none(),
    st.dates(),
    st.floats(allow_nan=False),
    st.sampled_from(["---", "no", "\n---\n", "<!-- hf_superfilter: x -->", "a: b", "# c", "|"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(keys, values, max_size=5)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}/[a-z]{1,5}", fullmatch=True)
lines = st.lists(
    st.one_of(
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20),
        st.sampled_from(
            [
                "---",
                "",
                "```",
                "<!-- hf_superfilter: a/b -->",
                "<!-- /hf_superfilter: a/b -->",
                "<!--",
            ]
        ),
    ),
    max_size=6,
)
endings = st.sampled_from(["\n", "\r\n"])
texts = st.builds(lambda found, end: end.join(found), lines, endings)
styles = st.fixed_dictionaries(
    {
        "default_flow_style": st.sampled_from([None, False, True]),
        "allow_unicode": st.booleans(),
        "indent": st.sampled_from([2, 4]),
        "width": st.sampled_from([20, 10_000]),
    },
)


def card_of(metadata, body, end, **style):
    return ("---\n" + (yaml.safe_dump(metadata, **style) if metadata else "") + "---\n").replace(
        "\n", end
    ) + body


# The YAML


def test_a_key_is_set_in_its_place_and_every_other_line_stays():
    assert set_metadata(CARD, {"tags": ["one"], "pretty_name": "Rows"}) == CARD.replace(
        '- "three"\n', ""
    ).replace("# at the end\n", "# at the end\npretty_name: Rows\n")


def test_a_value_that_is_there_already_keeps_its_text():
    same = {
        "license": "mit",
        "language": "no",
        "tags": ["one", "three"],
        "configs": read_metadata(CARD)["configs"],
    }
    assert set_metadata(CARD, same) == CARD


COMMENTED = """---
configs:
# about the raw rows
- config_name: raw   # as collected
  data_files:        # two files
  - split: train
    path: raw/*.csv  # semicolons
  version: 1.10.0
  sep: "\\t"

# about the columns
dataset_info:
  config_name: raw
  features:
  - name: q          # the question
    dtype: string
---
"""


def test_comments_inside_a_changed_key_stay():
    metadata = read_metadata(COMMENTED)
    best = {"config_name": "no", "data_files": [{"split": "train", "path": "1e3/*.parquet"}]}
    after = set_metadata(COMMENTED, {"configs": [*metadata["configs"], best]})
    added = "- config_name: 'no'\n  data_files:\n  - split: train\n    path: 1e3/*.parquet\n"
    assert after == COMMENTED.replace("\n\n# about the col", f"\n{added}\n# about the col")
    infos = [metadata["dataset_info"], {"config_name": "no", "rate": 2e-5}]
    after = set_metadata(COMMENTED, {"dataset_info": infos})
    assert read_metadata(after)["dataset_info"] == infos
    assert yaml.safe_load("rate: 2.0e-05") == {"rate": 2e-5}
    assert "2.0e-05" in after


@pytest.mark.parametrize(
    "text", ["no", "on", "y", "1e3", "2e-5", "0o17", "1:30", "2024-01-31", "~"]
)
def test_text_that_yaml_could_take_for_something_else_is_quoted(text):
    after = set_metadata("---\nb: 2\n---\n", {"a": [text, {text: text}]})
    assert yaml.safe_load(after.split("---\n")[1])["a"] == [text, {text: text}]
    assert f"'{text}'" in after


def bomb(levels=9):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]\n"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n")
    return "".join(lines)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (bomb(), "holds more than 200,000 values, aliases expanded"),
        ("a: &a [*a]\n", "holds the alias \\*a to nothing, or to what it stands in"),
        ("a: " + "[" * 70 + "]" * 70 + "\n", "holds more than 64 levels"),
        ("a: '" + "x" * 2_000_000 + "'\n", "has 2,000,006 characters"),
    ],
)
def test_a_head_that_explodes_is_refused_before_it_is_built(head, said):
    with pytest.raises(ValueError, match=f"^the YAML at the head of README.md {said}"):
        read_metadata(f"---\n{head}---\n")


def test_norwegian_is_a_language_and_not_false():
    for head in ("language: no\n", "language:\n- en\n- no\n", "language: [no]\n"):
        found = read_metadata(f"---\n{head}---\n")["language"]
        assert found in ("no", ["en", "no"], ["no"])
        assert head in set_metadata(f"---\n{head}---\n", {"tags": []})
    assert (
        set_metadata("---\n{language: no, x: 1}\n---\n", {"x": 2})
        == "---\nlanguage: 'no'\nx: 2\n---\n"
    )


@pytest.mark.parametrize(
    ("head", "after"),
    [
        ("", "a: 1\n"),
        ("# only a comment\n", "# only a comment\na: 1\n"),
        ("{b: 2, a: 0}\n", "b: 2\na: 1\n"),
        ("'a': 0\nb: 2\n", "'a': 1\nb: 2\n"),
        ("? a\n: 0\n", "a: 1\n"),
        ("b: &x [1]\na: *x\n", "b: &x [1]\na: 1\n"),
        ("a: &x [1]\nb: *x\n", "a: 1\nb:\n- 1\n"),
        ("a: 0\na: 3\nb: 2\n", "a: 1\nb: 2\n"),
        ("b: .nan  # kept\na: 0\n", "b: .nan  # kept\na: 1\n"),
        ("b: |+\n  x\n\n\na: 0\n", "b: |+\n  x\n\n\na: 1\n"),
        ("b: 2\r\na: 0\r\nc: 3\r\n", "b: 2\r\na: 1\nc: 3\r\n"),
        ("b: 2\n...\n", "b: 2\na: 1\n"),
        ("base: &x {c: 1}\nb: {<<: *x}\na: 0\n", "base: &x {c: 1}\nb: {<<: *x}\na: 1\n"),
    ],
)
def test_layouts_of_every_kind_say_the_same_afterwards(head, after):
    assert set_metadata(f"---\n{head}---\nBody\r\n", {"a": 1}) == f"---\n{after}---\nBody\r\n"


@pytest.mark.parametrize(
    "text", ["", "Body", "# Body\n---\n", "\n\n# Body\n", "text\n---\na: 1\n---\n"]
)
def test_a_card_without_a_head_gets_one(text):
    assert read_metadata(text) == {}
    assert set_metadata(text, {"a": 1}) == f"---\na: 1\n---\n{text}"


@pytest.mark.parametrize("before", ["\ufeff", "\n\n", " \n", "\ufeff\n"])
def test_what_stands_before_the_head_hides_it_from_no_one_afterwards(before):
    text = before + "---\nb: 2\n---\nBody"
    assert read_metadata(text) == {"b": 2}
    assert set_metadata(text, {"a": 1}) == "---\nb: 2\na: 1\n---\nBody"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\na: [\n---\n", "is damaged"),
        ("---\na: b: c\n---\n", "is damaged"),
        ("---\n[a]: 1\n---\n", "is damaged"),
        ("---\nx: !!python/name:os.system\n---\n", "is damaged"),
        ("---\n- a\n---\n", "is no mapping, but"),
        ("---\njust text\n---\n", "is no mapping, but 'just text'"),
    ],
)
def test_a_damaged_head_is_one_sentence(text, said):
    for use in (read_metadata, lambda text: set_metadata(text, {"a": 1})):
        with pytest.raises(
            ValueError, match=r"^the YAML at the head of README\.md " + said
        ) as error:
            use(text)
        assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_one_sentence():
    assert decode_card("é\r\n\u2028".encode()) == "é\r\n\u2028"
    with pytest.raises(
        ValueError, match=r"^README\.md is not UTF-8 text .*: save it as that first$"
    ):
        decode_card(b"\xff")


@settings(deadline=None)  # other work on the machine is no failure
@given(mappings, mappings, texts, endings, styles)
def test_every_foreign_key_keeps_its_value_and_the_body_its_bytes(
    before, changed, body, end, style
):
    text = card_of(before, body, end, **style)
    after = set_metadata(text, changed)
    wanted = {
        **read_metadata(text),
        **changed,
    }  # what PyYAML wrote of the line ends of Unicode is not `before`
    assert repr(read_metadata(after)) == repr(wanted) or read_metadata(after) == wanted
    assert body_of(after) == body
    assert set_metadata(after, changed) == after


@settings(deadline=None)  # other work on the machine is no failure
@given(mappings, st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), texts)
def test_lines_of_other_keys_stay_as_they_were(before, value, body):
    blocks = [yaml.safe_dump({key: kept}) + "# about the next\n\n" for key, kept in before.items()]
    after = set_metadata("---\n" + "".join(blocks) + "---\n" + body, {"ours-1": value})
    assert after.startswith("---\n" + "".join(blocks))
    assert read_metadata(after)["ours-1"] == value


# Sections


@settings(deadline=None)  # other work on the machine is no failure
@given(texts, names, texts, texts)
def test_a_section_replaces_itself_and_nothing_else(text, name, one, two):
    assume(f"<!-- hf_superfilter: {name} -->" not in text)
    once = set_section(text, name, one)
    assert once.startswith(text)
    assert set_section(once, name, one) == once
    assert set_section(set_section(once, name, two), name, one) == once


@settings(deadline=None)  # other work on the machine is no failure
@given(
    st.lists(st.tuples(names, texts), min_size=1, max_size=4, unique_by=lambda pair: pair[0]),
    texts,
    texts,
    st.data(),
)
def test_sections_among_text_by_hand_are_replaced_each_in_its_place(sections, by_hand, new, data):
    assume("<!-- " not in by_hand)
    text = "# Rows\n"
    for name, section in sections:
        text = set_section(text, name, section) + by_hand + "\n"
    name, old = data.draw(st.sampled_from(sections))
    changed = set_section(text, name, new)
    assert set_section(changed, name, old) == text
    assert changed.count(by_hand) >= len(sections)
    for other, section in sections:
        inside = set_section("", other, new if other == name else section)
        assert inside in changed


@settings(deadline=None)  # other work on the machine is no failure
@given(texts, names)
def test_no_line_of_a_section_ends_or_begins_one(section, name):
    text = set_section("# Rows\n", name, section)
    assert re.findall(r"^<!-- /?hf_superfilter: .* -->$", text, re.MULTILINE) == [
        f"<!-- hf_superfilter: {name} -->",
        f"<!-- /hf_superfilter: {name} -->",
    ]


def test_a_section_whose_end_was_deleted_swallows_nothing():
    by_hand = "Rest of the old one.\n\nBy hand.\n"
    text = "<!-- hf_superfilter: a/train -->\n" + by_hand
    once = set_section(text, "a/train", "New.")
    twice = set_section(once, "a/train", "Newer.")
    for card in (once, twice):
        assert card.startswith(text)
    assert twice == once.replace("New.", "Newer.")


def test_comments_with_other_ends_of_lines_and_blanks_are_found():
    begin, end = "<!-- hf_superfilter: a/train --> ", "<!-- /hf_superfilter: a/train -->\t"
    card = f"A\r\n{begin}\r\nold\r\n{end}\r\nB\r\n"
    assert set_section(card, "a/train", "new") == (
        "A\r\n<!-- hf_superfilter: a/train -->\nnew\n\n<!-- /hf_superfilter: a/train -->\nB\r\n"
    )
    assert (
        set_section("<!-- hf_superfilter: a/trainx -->\n", "a/train", "x").count("hf_superfilter")
        == 3
    )
