"""Words that query and passage share are marked, by the rule and by nothing else."""

import pytest
from shared_vectors import EXACT_MATCH_FILE, as_text, exact_match_vectors
from tiny import make_tokenizer
from tokenizers import Tokenizer

from finemesh_trainer.models.exact_match import MATCHED, STOP_WORDS, PairIds, PairTokenizer, is_letter_or_digit


def pieces(tokenizer: Tokenizer, pair: PairIds) -> str:
    """The pieces of a pair, with spaces between them."""
    return " ".join(tokenizer.id_to_token(token_id) for token_id in pair.ids)


def marked_pieces(tokenizer: Tokenizer, pair: PairIds) -> tuple[list[str], list[str]]:
    """The marked pieces of the query and of the passage."""
    tokens = [(tokenizer.id_to_token(i), segment) for i, segment in zip(pair.ids, pair.segments, strict=True)]
    sides = [[token for token, segment in tokens if segment == side + MATCHED] for side in (0, 1)]
    return sides[0], sides[1]


@pytest.mark.parametrize(
    ("query", "passage", "in_query", "in_passage"),
    [
        ("what is a shard", "A shard is a stone", "shard", "shard"),
        # The whole word counts: `shard` is no part of `sharding`, though both begin with the same piece.
        ("sharding", "shard", "", ""),
        ("sharding stone", "fast sharding, sharding", "shard ##ing", "shard ##ing shard ##ing"),
        # Case and accents are the tokenizer's business.
        ("Café", "the CAFE", "cafe", "cafe"),
        # Stop words and punctuation never count, nor do unknown words, of which two need not be the same.
        ("how is it? ", "it is? how", "", ""),
        ("☂", "☂", "", ""),
        ("[MASK]", "[MASK]", "", ""),
        # Ideographs are words of one character.
        ("東京", "京 東", "東 京", "京 東"),
    ],
)
def test_shared_words_are_marked(
    tokenizer: Tokenizer, query: str, passage: str, in_query: str, in_passage: str
) -> None:
    pairs = PairTokenizer(tokenizer, max_tokens=32, max_query_tokens=10, mark_exact_matches=True)
    assert marked_pieces(tokenizer, pairs.encode(query, [passage])[0]) == (in_query.split(), in_passage.split())


def test_a_pair_is_laid_out_as_bert_has_it(tokenizer: Tokenizer) -> None:
    pair = PairTokenizer(tokenizer, 32, 10, mark_exact_matches=True).encode("one apple", ["apple, two"])[0]
    assert [tokenizer.id_to_token(i) for i in pair.ids] == [
        "[CLS]",
        "one",
        "apple",
        "[SEP]",
        "apple",
        ",",
        "two",
        "[SEP]",
    ]
    assert pair.segments == [0, 0, 2, 0, 3, 1, 1, 1]


def test_both_sides_are_cut(tokenizer: Tokenizer) -> None:
    pairs = PairTokenizer(tokenizer, max_tokens=9, max_query_tokens=2, mark_exact_matches=True)
    pair = pairs.encode("one two three", ["two three one fast slow"])[0]
    assert [tokenizer.id_to_token(i) for i in pair.ids] == [
        "[CLS]",
        "one",
        "two",
        "[SEP]",
        "two",
        "three",
        "one",
        "fast",
        "[SEP]",
    ]
    # `three` was cut off the query: it is no match.
    assert pair.segments == [0, 2, 2, 0, 3, 1, 3, 1, 1]


def test_without_marks_segments_are_plain(tokenizer: Tokenizer) -> None:
    pair = PairTokenizer(tokenizer, 32, 10, mark_exact_matches=False).encode("apple", ["apple"])[0]
    assert pair.segments == [0, 0, 0, 1, 1]


def test_the_files_own_truncation_and_padding_do_not_count() -> None:
    pair = PairTokenizer(make_tokenizer(), 60, 10, mark_exact_matches=True).encode("apple", ["pear " * 50])[0]
    assert len(pair.ids) == 3 + 1 + 50


def test_letters_and_digits_are_fixed_ranges() -> None:
    assert all(map(is_letter_or_digit, "aZ09é東京д"))
    assert not any(map(is_letter_or_digit, "?'-_ £\u2014\u2026\u3002"))


def test_stop_words_are_few_and_plain() -> None:
    assert len(STOP_WORDS) < 80
    assert all(word.isascii() and word.islower() for word in STOP_WORDS)


def test_the_shared_vectors_are_what_this_code_gives() -> None:
    assert EXACT_MATCH_FILE.read_text("utf-8") == as_text(exact_match_vectors())
