"""Privacy on a small made set: what is to be found, and what looks like it."""

import numpy as np
import pytest

from hf_superfilter import Privacy
from hf_superfilter.scoring.privacy import identifiers

FOUND = {
    "emails": ["ann.b+c@mail.co.uk", "x_1@sub.domain.org", "müller@firma.de", "A@B.io"],
    "phones": ["+49 30 1234567", "(555) 123-4567", "555-123-4567", "+1 (415) 555-0134",
               "+353 1 234 5678", "+44 20 7946 0958", "+86 138 0013 8000", "+91-98765-43210",
               "+33 6 12 34 56 78", "+49 (0)30 1234567", "+4930123456", "0049 30 1234567"],
    "ips": ["8.8.8.8", "93.184.216.34", "2001:4860:4860::8888", "2606:4700:4700:0:0:0:0:1111"],
    "keys": ["AKIA" + "ABCDEFGH12345678", "ghp_" + "a1" * 18, "sk-" + "A1b2" * 8,
             "-----BEGIN RSA PRIVATE KEY-----", "ASIA" + "ABCDEFGH12345678",
             'aws_secret_access_key = "' + "wJal/+7MDE" * 4, "github_pat_" + "11AB_" * 14,
             "ghs_" + "a1" * 20, "glpat-" + "abc1-" * 4, "hf_" + "aB" * 17, "hf_" + "a1" * 17,
             "sk-proj-" + "A1b2" * 8, "sk_live_" + "a1" * 12, "AIza" + "aB3-x" * 7,
             "xoxb-123456789012-abcdef", "-----BEGIN PGP PRIVATE KEY BLOCK-----",
             "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_123"],
    "streets": ["12 High Street", "221 Baker Street", "1600 Pennsylvania Avenue"],
}  # fmt: skip
LOOKALIKES = {
    "emails": ["a @ b", "user@example.com", "x@localhost", "@decorator", "me@my.test"],
    "phones": [
        "1,234,567",
        "2024-01-02",
        "3.14159265",
        "12-34-56",
        "1234567890123",
        "5551234567",
        "0012345678901",
        "00 12 34 56 78 90",
        "+5 apples and 12345678",
    ],
    "ips": [
        "10.0.0.1",
        "127.0.0.1",
        "1.2.3",
        "1.2.3.4.5",
        "300.1.1.1",
        "v1.2.3.4a",
        "::1",
        "fe80::1",
        "2001:db8::1",
        "12:30:45",
        "2024:12:31",
        "std::vector",
    ],
    "keys": [
        "AKIA",
        "sk-short",
        "-----BEGIN PUBLIC KEY-----",
        "task-management-of-the-company",
        "sk-learn-is-what-many-people-call-it",
        "hf_hub_download_from_the_repository_name",
    ],
    "streets": ["12 high hopes", "The Street", "5 Apples Stand"],
}


@pytest.mark.parametrize("kind", FOUND)
def test_what_is_to_be_found_is_found_once_in_a_sentence_and_lookalikes_are_not(kind):
    for text in FOUND[kind]:
        assert identifiers(f"It is {text}, they say.", kind) == [text]
        assert identifiers(text, kind) == [text]
    for text in LOOKALIKES[kind]:
        assert identifiers(f"It is {text}, they say.", kind) == [], text


def test_columns_count_prompt_and_response_by_kind():
    columns = Privacy()(
        {"prompt": ["Mail a@b.org or call +49 30 1234567", "Nothing"],
         "response": ["a@b.org and c@d.org", ""]}
    )  # fmt: skip
    assert columns["privacy"].tolist() == [4, 0]
    assert columns["privacy_emails"].tolist() == [3, 0]
    assert columns["privacy_phones"].tolist() == [1, 0]
    assert columns["privacy_keys"].tolist() == [0, 0]


def test_a_chat_is_searched_whole_and_an_unreadable_row_is_undefined():
    chat = Privacy()({"prompt": [["a@b.org", "x"]], "response": [["y", "8.8.8.8"]]})
    assert chat["privacy"].tolist() == [2]
    bad = {"prompt": ["a", "b"], "response": ["c", "d"], "unreadable_reason": [None, "torn"]}
    assert np.isnan(Privacy()(bad)["privacy"]).tolist() == [False, True]
