"""Documents cut into passages by the indexer's rule (`libs/inference/src/split.rs`, `services/indexer`), once more.

A passage is a document's title and a part of its text. Parts overlap, are of about equal length, and end at a gap
between words where one is near. The indexer's bound on a passage's bytes is left out: ordinary texts never meet it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from finemesh_trainer.data.beir import Document
from finemesh_trainer.data.examples import passage_text

SPECIAL_TOKENS = 2

Spans = list[tuple[int, int]]
"""Where a text's tokens begin and end, in characters."""


@dataclass(frozen=True, slots=True)
class PassageSize:
    """Tokens of a passage, special ones and title included, and those that neighbours share."""

    tokens: int
    overlap: int


def passages_of(document: Document, tokenizer: Tokenizer, size: PassageSize) -> list[str]:
    """The texts that are indexed for a document."""
    title_spans, spans = (
        tokenizer.encode(text, add_special_tokens=False).offsets for text in (document.title, document.text)
    )
    title_tokens = min(len(title_spans), size.tokens // 2 - SPECIAL_TOKENS)
    text_tokens = size.tokens - SPECIAL_TOKENS - title_tokens
    cuts = Cuts(spans, text_tokens, min(size.overlap, text_tokens // 2, text_tokens - 1))
    title = cut_title(document.title, title_spans, title_tokens)
    parts = (document.text[begin:end] for begin, end in cuts.parts(len(document.text)))
    return [passage_text(title, part) for part in parts if part.strip()]


def cut_title(title: str, spans: Spans, tokens: int) -> str:
    """A title's first tokens."""
    return title if len(spans) <= tokens else title[: spans[tokens][0]].rstrip()


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where a text is cut."""

    spans: Spans
    size: int
    overlap: int

    def parts(self, characters: int) -> Iterator[tuple[int, int]]:
        """The parts of a text of so many characters; none of them is empty or ends with the one before."""
        last = 0
        for first, behind in self.token_ranges():
            begin = 0 if first == 0 else self.spans[first][0]
            end = self.spans[behind][0] if behind < len(self.spans) else characters
            if max(begin, last) < end:
                yield begin, end
                last = end

    def token_ranges(self) -> Iterator[tuple[int, int]]:
        """First token of each part, and the one behind its last."""
        start = 0
        while len(self.spans) - start > self.size:
            end = self.word_start(start + self.balanced_size(len(self.spans) - start), start + self.overlap)
            yield start, end
            start = self.word_start(end - self.overlap, start)
        yield start, len(self.spans)

    def balanced_size(self, rest: int) -> int:
        """The length with which the rest divides evenly into as few parts as it takes."""
        parts = -(-(rest - self.overlap) // (self.size - self.overlap))
        return self.overlap - (-(rest - self.overlap) // parts)

    def word_start(self, token: int, floor: int) -> int:
        """The nearest token at or before `token`, and behind `floor`, in front of which there is a gap."""
        nearest = max(token - self.size // 8, floor + 1)
        gaps = (at for at in range(token, nearest - 1, -1) if self.spans[at - 1][1] < self.spans[at][0])
        return next(gaps, token)
