"""A query and a passage as one input, in which the words that occur in both are marked (scheme `exact_match_v1`).

A small cross-encoder spends its first layers on finding out which words of the query the passage has. Telling it
costs nothing: BERT's segment ids carry it, their table of two rows grown to four.

    [CLS] query [SEP] passage [SEP]
      0    0|2    0     1|3     1       2 and 3: the token's word occurs on the other side as well; padding is 0

The rule, which serving repeats to the id (`tests/vectors/exact_match.json` has examples for both):

1. Query and passage are tokenized apart, without special tokens. The query keeps its first `max_query_tokens` ids,
   the passage its first `max_tokens - 3 - len(query)`.
2. A token of the tokenizer's special ones (`[UNK]` too) is no word. Of the others, a token that does not start with
   `##` starts a word, and those that do continue it; one at the start of a side or behind a special token starts one.
   A word is its ids: what truncation left of it.
3. A word may be marked when its text, the pieces joined without `##`, is not in `STOP_WORDS` and holds a letter or
   digit. Letters and digits are a-z, A-Z, 0-9, and every character from U+00C0 on, save U+2000 to U+206F (general
   punctuation) and U+3000 to U+303F (ideographic punctuation).
4. All tokens of a word that may be marked are marked when the other side has a word of the same ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tokenizers import Tokenizer

CONTINUATION = "##"
SPECIAL_TOKENS_OF_A_PAIR = 3
QUERY, PASSAGE = 0, 1
MATCHED = 2
"""Is added to the segment id of a token whose word occurs on the other side."""
MARKED_SEGMENTS, PLAIN_SEGMENTS = 4, 2
"""Rows of the segment table with and without marks."""

STOP_WORD_LIST = """
a an and are as at be been but by can could did do does for from had has have how if in into is it its may no not of
on or s such t than that the their then there these they this to was were what when where which who whom why will with
would
"""
STOP_WORDS = frozenset(STOP_WORD_LIST.split())


@dataclass(frozen=True, slots=True)
class PairIds:
    """One input: token ids and segment ids of the same length."""

    ids: list[int]
    segments: list[int]


class PairTokenizer:
    """Cuts pairs into ids. The truncation and padding of the tokenizer's file are taken off it."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, max_query_tokens: int, mark_exact_matches: bool) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_query_tokens = max_query_tokens
        self.mark_exact_matches = mark_exact_matches
        self.start_id, self.separator_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        self.words = WordFinder(tokenizer)

    def encode(self, query: str, passages: Sequence[str]) -> list[PairIds]:
        """The inputs of one query with each of its passages."""
        encodings = self.tokenizer.encode_batch([query, *passages], add_special_tokens=False)
        query_ids, *passages_ids = (encoding.ids for encoding in encodings)
        query_ids = query_ids[: self.max_query_tokens]
        room = self.max_tokens - SPECIAL_TOKENS_OF_A_PAIR - len(query_ids)
        return [self.pair(query_ids, passage_ids[:room]) for passage_ids in passages_ids]

    def pair(self, query_ids: list[int], passage_ids: list[int]) -> PairIds:
        """The input of two sides that are cut already."""
        ids = [self.start_id, *query_ids, self.separator_id, *passage_ids, self.separator_id]
        query_segments, passage_segments = [QUERY] * len(query_ids), [PASSAGE] * len(passage_ids)
        if self.mark_exact_matches:
            mark_matches(self.words.find(query_ids), self.words.find(passage_ids), query_segments, passage_segments)
        return PairIds(ids, [QUERY, *query_segments, QUERY, *passage_segments, PASSAGE])


Words = dict[tuple[int, ...], list[range]]
"""The words of one side that may be marked, each with the positions of its tokens wherever it occurs."""


def mark_matches(query: Words, passage: Words, query_segments: list[int], passage_segments: list[int]) -> None:
    """Marks in place what both sides have."""
    for word in query.keys() & passage.keys():
        for position in chain.from_iterable(query[word]):
            query_segments[position] = QUERY + MATCHED
        for position in chain.from_iterable(passage[word]):
            passage_segments[position] = PASSAGE + MATCHED


class WordFinder:
    """Finds the words of a text in its token ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        pieces = {token_id: piece for piece, token_id in tokenizer.get_vocab().items()}
        self.pieces = pieces
        self.continuing = {token_id for token_id, piece in pieces.items() if piece.startswith(CONTINUATION)}
        self.special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.markable: dict[tuple[int, ...], bool] = {}

    def find(self, ids: Sequence[int]) -> Words:
        """The words that may be marked, with the positions of their tokens."""
        found: Words = {}
        for positions in self.spans(ids):
            word = tuple(ids[positions.start : positions.stop])
            if self.may_be_marked(word):
                found.setdefault(word, []).append(positions)
        return found

    def spans(self, ids: Sequence[int]) -> list[range]:
        """The positions of every word's tokens, in order; special tokens are in none."""
        spans: list[range] = []
        for position, token_id in enumerate(ids):
            if token_id in self.special:
                continue
            if token_id in self.continuing and spans and spans[-1].stop == position:
                spans[-1] = range(spans[-1].start, position + 1)
            else:
                spans.append(range(position, position + 1))
        return spans

    def may_be_marked(self, word: tuple[int, ...]) -> bool:
        """Whether a word is neither a stop word nor punctuation."""
        known = self.markable.get(word)
        if known is None:
            text = "".join(self.pieces[token_id].removeprefix(CONTINUATION) for token_id in word)
            known = self.markable[word] = text not in STOP_WORDS and any(map(is_letter_or_digit, text))
        return known


def is_letter_or_digit(character: str) -> bool:
    """As rule 3 has it: by fixed ranges, because languages' own notions of a letter differ."""
    code = ord(character)
    if code < 0x80:
        return character.isalnum()
    return code >= 0xC0 and not (0x2000 <= code <= 0x206F or 0x3000 <= code <= 0x303F)
