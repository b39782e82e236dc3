"""Query styles that pairs seldom have, cut from a corpus: titles, keywords and claims. No language model is asked.

- `title`: a passage's title, answered by its text alone.
- `keywords`: two to five of a passage's heaviest words by tf-idf, in the passage's order.
- `claim`: a declarative sentence taken out of its passage, answered by the rest (inverse cloze: Lee, Chang & Toutanova,
  ACL 2019). What "we found that …" reports is cut free, as SciFact's claims are.

No query copies its passage: what is taken as a query is left out of the positive, and what the rest says again in the
same words is passed over.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.examples import Example, passage_text
from finemesh_trainer.data.guards.copies import RUN_WORDS, is_copied
from finemesh_trainer.data.text import shingles, words
from finemesh_trainer.models.exact_match import STOP_WORDS

TITLE_WORDS = range(3, 26)
CLAIM_WORDS = range(8, 31)
MIN_PASSAGE_WORDS = 30
"""What is left to answer a title or a claim."""
KEYWORDS_PER_QUERY = (2, 5)
KEYWORD_CANDIDATES = 8
MIN_KEYWORD_LETTERS = 3
MAX_KEYWORD_SHARE = 0.1
"""A word of more than a tenth of all passages tells none of them."""
BEST_CLAIMS = 3
"""The claim is drawn from the passage's most specific sentences."""

SENTENCE_END = re.compile(
    r"(?<=[a-z0-9)%\x22”][.!?])\s+(?=[A-Z])|(?<=[A-Z]{2}[.!?])\s+(?=[A-Z])"  # found. The · DNA. The · not J. Smith
    r"|(?<=[a-z)][.!?])(?=[A-Z][a-z])"  # found.The, where line ends were lost
)
REPORTED = re.compile(
    r"^.{0,80}?\b(?:show(?:s|ed|n)?|finds?|found|demonstrate[sd]?|suggest(?:s|ed)?|indicate[sd]?|conclude[sd]?"
    r"|reveal(?:s|ed)?|confirm(?:s|ed)?|prove[sdn]?|report(?:s|ed)?|observe[sd]?) that (?P<claim>.+)$"
)
OPENING_WORDS = """
additionally after also although another as at because both but by consequently despite each finally first for
from further furthermore hence her his however if in moreover most nevertheless next of on one or results
second several similarly since so some such that then there therefore thus to together using what when where
whereas which while with yet you your
"""
OPENINGS = frozenset(OPENING_WORDS.split())
"""A sentence that starts with one of these goes on from one before it, or is no plain claim."""
REFERENCES = frozenset(
    ("this", "these", "those", "our", "we", "us", "i", "my", "here", "it", "they", "he", "she", "following")
)
"""A sentence with one of these speaks of something outside of it."""
FORMULA_SIGNS = frozenset("$\\{}=<>|@#[]^_")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents, and in how many of them each word stands."""

    documents: Sequence[Document]
    document_counts: Mapping[str, int]
    title_counts: Mapping[str, int]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> "Corpus":
        """Counts the words of the documents that have any."""
        listed = [document for document in documents if document.passage]
        document_counts = Counter(word for document in listed for word in set(words(document.passage)))
        return cls(listed, document_counts, Counter(document.title for document in listed))

    def idf(self, word: str) -> float:
        """ln(N / df)."""
        return math.log(len(self.documents) / self.document_counts[word])


def synthesise(corpus: Corpus, styles: Sequence[str], per_style: int, seed: int) -> Iterator[Example]:
    """Up to `per_style` examples of each style, from documents drawn without repetition. Same seed, same examples."""
    for style in styles:
        random = Random(f"{seed}:{style}")
        made = 0
        for document in random.sample(corpus.documents, len(corpus.documents)):
            if made == per_style:
                break
            if (example := STYLES[style](corpus, document, random)) is not None:
                made += 1
                yield example


def title_example(corpus: Corpus, document: Document, _random: Random) -> Example | None:
    """The title asks for the text, where no other document has it."""
    query = document.title.rstrip(" .")
    is_own = corpus.title_counts[document.title] == 1
    if not is_own or len(words(query)) not in TITLE_WORDS or not answers(document.text, query):
        return None
    return synthetic("title", document, query, document.text)


def keywords_example(corpus: Corpus, document: Document, random: Random) -> Example | None:
    """A few of the heaviest words ask for the passage."""
    candidates = keyword_candidates(corpus, words(document.passage))
    least, most = KEYWORDS_PER_QUERY
    if len(candidates) < most:
        return None
    drawn = set(random.sample(candidates, random.randint(least, most)))
    query = " ".join(dict.fromkeys(word for word in words(document.passage) if word in drawn))
    if is_copied(query, shingles(words(document.passage), RUN_WORDS)):
        return None
    return synthetic("keywords", document, query, document.passage)


def claim_example(corpus: Corpus, document: Document, random: Random) -> Example | None:
    """A sentence asks for the passage that it was taken out of."""
    sentences = SENTENCE_END.split(document.text)
    scored = []
    for index, sentence in enumerate(sentences):
        claim = claim_of(sentence)
        rest = passage_text(document.title, " ".join(sentences[:index] + sentences[index + 1 :]))
        if claim is not None and answers(rest, claim):
            scored.append((specificity(corpus, claim), claim, rest))
    if not scored:
        return None
    _, claim, rest = random.choice(sorted(scored, reverse=True)[:BEST_CLAIMS])
    return synthetic("claim", document, claim, rest)


STYLES: dict[str, Callable[[Corpus, Document, Random], Example | None]] = {
    "title": title_example,
    "keywords": keywords_example,
    "claim": claim_example,
}
"""Every style by its name."""


def keyword_candidates(corpus: Corpus, passage: Sequence[str]) -> list[str]:
    """The heaviest words of a passage by (1 + ln tf) · idf, heaviest first; ties go by the word."""
    weights = {
        word: (1 + math.log(count)) * corpus.idf(word)
        for word, count in Counter(passage).items()
        if is_keyword(corpus, word)
    }
    return sorted(weights, key=lambda word: (-weights[word], word))[:KEYWORD_CANDIDATES]


def is_keyword(corpus: Corpus, word: str) -> bool:
    """Whether somebody might type it: letters, not rare enough to be a slip, not common enough to be idle."""
    letters = sum(character.isalpha() for character in word)
    return (
        letters >= MIN_KEYWORD_LETTERS
        and word not in STOP_WORDS
        and 1 < corpus.document_counts[word] <= MAX_KEYWORD_SHARE * len(corpus.documents)
    )


def claim_of(sentence: str) -> str | None:
    """The claim that a sentence makes, standing by itself; None where it makes none."""
    reported = REPORTED.match(sentence)
    claim = (reported["claim"] if reported else sentence).strip()
    if not claim.endswith(".") or FORMULA_SIGNS & set(claim) or claim.count("(") != claim.count(")"):
        return None
    claim_words = words(claim)
    if len(claim_words) not in CLAIM_WORDS or claim_words[0] in OPENINGS or not REFERENCES.isdisjoint(claim_words):
        return None
    return claim[0].upper() + claim[1:]


def specificity(corpus: Corpus, claim: str) -> float:
    """Mean idf of the words."""
    claim_words = words(claim)
    return sum(corpus.idf(word) for word in claim_words) / len(claim_words)


def answers(passage: str, query: str) -> bool:
    """Whether a passage is long enough to answer, and does not merely repeat the query."""
    passage_words = words(passage)
    return len(passage_words) >= MIN_PASSAGE_WORDS and not is_copied(query, shingles(passage_words, RUN_WORDS))


def synthetic(style: str, document: Document, query: str, positive: str) -> Example:
    """An example whose group is its style."""
    return Example(query, positive, positive_id=document.document_id, group=style, place=document.place)
