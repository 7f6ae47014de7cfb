"""Count personal identifiers in the text of a row."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..base import Batch, Columns, Settings
from ..checks import check_name, pair_of_columns
from ..data.chats import flatten_turns
from ._rows import takes_rows

STREETS = "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq"
# Beginnings that issuers give their keys so that scanners find them, and what follows.
KEYS = (
    r"(?:AKIA|ASIA)[0-9A-Z]{16}",  # AWS, long-lived and temporary
    r"gh[pousr]_\w{36,255}|github_pat_\w{22,255}|glpat-[\w-]{20,}",  # GitHub, GitLab
    r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"sk-(?=[\w-]*\d)[\w-]{20,}|AIza[\w-]{35}",  # OpenAI and others, Google
    r"[sr]k_(?:live|test)_\w{16,}",  # Stripe
    r"xox[abeoprs]-[\w-]{10,}",  # Slack
    r"npm_\w{36}|pypi-[\w-]{50,}",
    r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+",  # JSON web tokens
)
PATTERNS = {
    "emails": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])"),
    "phones": re.compile(
        r"(?<![\w.+])(?:(?:\+|00(?=[1-9]\d{0,2}[ .-]))[1-9][\d ().-]{6,18}\d"
        r"|\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}[-.]\d{3}[-.]\d{4})(?![\w-])"
    ),
    # Of version 6 the addresses that are routed, 2000::/3.
    "ips": re.compile(
        r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
        r"|(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]*[0-9A-Fa-f](?![\w:])"
    ),
    "keys": re.compile(
        rf"(?<!\w)(?:{'|'.join(KEYS)})(?!\w)"
        r"|(?i:aws_secret_access_key|aws_secret_key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?[\w/+]{40}(?![\w/+=])"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----"
    ),
    "streets": re.compile(rf"(?<!\w)\d{{1,5}} (?:[A-Z][\w'-]+ ){{1,3}}(?:{STREETS})\b"),
}
# Domains that RFC 2606 keeps for examples.
EXAMPLES = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.(?:com|org|net))?|test|invalid)$", re.I)
PHONE_DIGITS = range(8, 16)  # of a number with its country code, after E.164


@dataclass(frozen=True, repr=False)
class Privacy(Settings):
    """Count e-mail addresses, phone numbers, IP addresses, keys and street addresses.

    Rules in the manner of datatrove's PII formatter, which public corpora were cleaned with, on
    prompt and response. They find what has a form, no names; addresses of the domains kept for
    examples and IP addresses that are not public do not count. Off unless named: it drops nothing
    by itself, `Threshold("privacy", below=1)` keeps the rows without a hit.

    Columns, float64, nan for a row that cannot be read: `privacy`, all together; `privacy_emails`,
    `privacy_phones`, `privacy_ips`, `privacy_keys`, `privacy_streets`.

    Args:
        name: prefix of the columns.
        columns: the prompt and the response column; a chat's turns are searched one by one.

    Example:
        >>> from hf_superfilter import Privacy
        >>> row = {"prompt": ["Who is it?"], "response": ["Write to ann@mail.org, 8.8.8.8."]}
        >>> columns = Privacy()(row)
        >>> columns["privacy"].tolist(), columns["privacy_emails"].tolist()
        ([2.0], [1.0])
    """

    _: KW_ONLY
    name: str = "privacy"
    columns: tuple[str, str] = ("prompt", "response")

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "columns", pair_of_columns(self.columns))
        check_name(self.name)

    @property
    def main(self) -> str:
        """The column to rank by."""
        return self.name

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Count in a batch of n rows."""
        turns = flatten_turns(batch, self.columns, keep_blank=True)
        counts = np.zeros((len(PATTERNS), turns.count))
        for row, prompt, response in zip(
            turns.rows.tolist(), turns.prompts, turns.responses, strict=True
        ):
            for number, kind in enumerate(PATTERNS):
                found = identifiers(prompt, kind) + identifiers(response, kind)
                counts[number, row] += len(found)
        counts[:, turns.is_unreadable] = np.nan
        by_kind = zip(PATTERNS, counts, strict=True)
        return {
            self.name: counts.sum(axis=0),
            **{f"{self.name}_{kind}": values for kind, values in by_kind},
        }


def identifiers(text: str, kind: str) -> list[str]:
    """List the identifiers of one kind in a text.

    Example:
        >>> identifiers("10.0.0.1 and 8.8.8.8, not 1.2.3.4.5 or 999.1.1.1", "ips")
        ['8.8.8.8']
    """
    test = TESTS.get(kind, bool)
    return [match for match in PATTERNS[kind].findall(text) if test(match)]


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # a number above 255
        return False


def _is_phone(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    return digits in PHONE_DIGITS


TESTS: dict[str, Callable[[str], bool]] = {
    "emails": lambda address: not EXAMPLES.search(address),
    "ips": _is_public,
    "phones": _is_phone,
}
