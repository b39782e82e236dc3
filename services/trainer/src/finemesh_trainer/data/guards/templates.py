"""Questions of one frame: "What are the symptoms of …?", a thousand times over.

A frame is a query with its rarer words replaced by a gap. It makes a template when it keeps three words or more, one
of them not a stop word, and covers a hundredth of its file's queries. Answers to such questions are alike too, so that
each is half right for the others' queries.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from finemesh_trainer.data.examples import Example
from finemesh_trainer.data.guards.findings import Finding, Guard, by_file, quoted
from finemesh_trainer.data.text import words
from finemesh_trainer.models.exact_match import STOP_WORDS

COMMON_WORD_SHARE = 0.01
"""A word that stands in this share of a file's queries belongs to the frame."""
FRAME_SHARE = 0.01
MIN_FRAME_QUERIES = 20
MIN_FRAME_WORDS = 3
GAP = "…"

Frame = tuple[str, ...]


def find_templates(examples: Sequence[Example]) -> Iterator[Finding]:
    """Examples whose query has a frame that is a template of their file."""
    for file in by_file(examples):
        queries = [words(examples[index].query) for index in file]
        frames = frames_of(queries)
        counts = Counter(frames)
        for index, frame in zip(file, frames, strict=True):
            if is_template(frame, counts[frame], len(file)):
                message = (
                    f"{quoted(examples[index].query)} is one of {counts[frame]} of the form {quoted(' '.join(frame))}"
                )
                yield Finding(Guard.TEMPLATES, index, message)


def frames_of(queries: Sequence[Sequence[str]]) -> list[Frame]:
    """The frame of each query."""
    counts = Counter(word for query in queries for word in set(query))
    common = {word for word, count in counts.items() if count >= COMMON_WORD_SHARE * len(queries)}
    return [frame_of(query, common) for query in queries]


def frame_of(query: Sequence[str], common: set[str]) -> Frame:
    """The query with each run of uncommon words replaced by one gap."""
    frame: list[str] = []
    for word in query:
        if word in common:
            frame.append(word)
        elif frame[-1:] != [GAP]:
            frame.append(GAP)
    return tuple(frame)


def is_template(frame: Frame, queries: int, queries_of_file: int) -> bool:
    """Whether a frame that has a gap covers enough queries and says enough."""
    kept = [word for word in frame if word != GAP]
    return (
        GAP in frame
        and queries >= max(MIN_FRAME_QUERIES, FRAME_SHARE * queries_of_file)
        and len(kept) >= MIN_FRAME_WORDS
        and any(word not in STOP_WORDS for word in kept)
    )
