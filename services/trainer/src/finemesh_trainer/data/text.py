"""Text as the guards compare it: words without case, punctuation and compatibility forms."""

import re
import unicodedata
import zlib

WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, compatibility-normalised and case-folded."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """A text's words with one space between them. Texts that are nothing but signs stay as they are, trimmed."""
    return " ".join(words(text)) or text.strip()


def collapsed(text: str) -> str:
    """A text without case, with single spaces. Signs stay: `+` and `$` may be all that two questions differ in."""
    return " ".join(text.casefold().split())


def shingles(text_words: list[str], width: int) -> set[int]:
    """Hashes of all runs of `width` words; a shorter text is one run. Equal on every machine."""
    runs = range(max(1, len(text_words) - width + 1))
    return {zlib.crc32(" ".join(text_words[start : start + width]).encode()) for start in runs}


def jaccard(left: set[int], right: set[int]) -> float:
    """Size of the intersection over size of the union; 1 for two empty sets."""
    common = len(left & right)
    union = len(left) + len(right) - common
    return common / union if union else 1.0
