"""Pairs that come twice, and passages that are nearly the same under different ids or texts.

Near-duplicates are found by MinHash (Broder 1997) over runs of five words, banded for lookup (Leskovec, Rajaraman &
Ullman, Mining of Massive Datasets, ch. 3), and confirmed by the exact Jaccard similarity. Two near-duplicates in one
batch or one list teach the model that a right answer is wrong.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.guards.findings import Finding, Guard, place_of, quoted
from finemesh_trainer.data.text import collapsed, jaccard, shingles, words

SHINGLE_WORDS = 5
MIN_JACCARD = 0.8
BANDS = 16
ROWS_PER_BAND = 4
"""16 bands of 4 rows find a pair of Jaccard .8 with a probability of .9998, and one of .5 in two cases of three."""
UPPER_HALF = np.uint64(32)
MIN_AGREEMENT = 0.6
"""Of the 64 rows, at Jaccard .8: four standard deviations below the mean. Fewer are not worth the exact comparison."""
HASH_SEED = 20_251_115


def find_repeated_pairs(examples: Sequence[Example]) -> Iterator[Finding]:
    """Examples whose query and positive an earlier example has."""
    first: dict[tuple[str, str], int] = {}
    for index, example in enumerate(examples):
        earlier = first.setdefault((collapsed(example.query), collapsed(example.positive)), index)
        if earlier != index:
            message = f"{quoted(example.query)} with the same passage as before{place_of(examples[earlier])}"
            yield Finding(Guard.REPEATED_PAIRS, index, message)


def find_duplicated_passages(examples: Sequence[Example]) -> Iterator[Finding]:
    """Examples whose positive is nearly that of an earlier one, and yet another passage.

    The same passage under many queries is no finding, nor is one that lost its title or a sentence to a query.
    """
    passages: dict[str, int] = {}
    for index, example in enumerate(examples):
        passages.setdefault(example.positive, index)
    originals = near_originals(list(passages))
    for index, example in enumerate(examples):
        original = examples[passages[originals[example.positive]]]
        if not is_same_passage(example, original):
            message = f"the passage {quoted(example.positive)} is nearly an earlier one{place_of(original)}"
            yield Finding(Guard.DUPLICATED_PASSAGES, index, message)


def is_same_passage(example: Example, other: Example) -> bool:
    """Whether two examples have one positive: by their ids or, where one has none, by their texts."""
    if example.positive_id is None or other.positive_id is None:
        return example.positive == other.positive
    return example.positive_id == other.positive_id


def near_originals(texts: Sequence[str]) -> dict[str, str]:
    """For each text the first original that it nearly equals, or itself, which makes it an original.

    Without the others, no two texts are near-duplicates.
    """
    runs = [shingles(words(text), SHINGLE_WORDS) for text in texts]
    signed = signatures(runs)
    originals_by_band: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    originals: dict[str, str] = {}
    for index, signature in enumerate(signed):
        keys = [(band, row.tobytes()) for band, row in enumerate(signature.reshape(BANDS, ROWS_PER_BAND))]
        candidates = np.array(sorted({original for key in keys for original in originals_by_band[key]}), dtype=int)
        likely = candidates[(signed[candidates] == signature).mean(axis=1) >= MIN_AGREEMENT]
        near = next((int(other) for other in likely if jaccard(runs[index], runs[other]) >= MIN_JACCARD), index)
        originals[texts[index]] = texts[near]
        if near == index:
            for key in keys:
                originals_by_band[key].append(index)
    return originals


def signatures(runs: Sequence[set[int]]) -> np.ndarray:
    """MinHash signatures, seeded: one row a text, BANDS x ROWS_PER_BAND numbers wide."""
    random = np.random.default_rng(HASH_SEED)
    factors, offsets = random.integers(0, 1 << 64, size=(2, BANDS * ROWS_PER_BAND, 1), dtype=np.uint64)
    signed = np.empty((len(runs), BANDS * ROWS_PER_BAND), dtype=np.uint32)
    for row, run in zip(signed, runs, strict=True):
        hashes = np.fromiter(run, dtype=np.uint64, count=len(run))
        # Multiply-shift (Dietzfelbinger et al. 1997): the product wraps at 64 bits, and its upper half is the hash.
        row[:] = ((factors * hashes + offsets) >> UPPER_HALF).min(axis=1)
    return signed
