"""Training examples that are in a test set: by id, and by text without regard to case and punctuation.

Ids are compared only where both sides number the same things. Two collections may count from 1 each: where they have
ten ids or more in common, and not one with the same text, the ids say nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finemesh_trainer.data import beir
from finemesh_trainer.data.examples import Example, read_examples
from finemesh_trainer.data.guards.findings import Finding, Guard, by_file, quoted
from finemesh_trainer.data.text import normalised

MIN_COMMON_IDS = 10
"""From so many ids in common on, that no text agrees is taken for two ways of counting."""


@dataclass(frozen=True, slots=True)
class TextIndex:
    """Test texts, normalised, with the place or name by which each is told."""

    by_id: Mapping[str, str]
    names: Mapping[str, str]
    """What to call a text, by the text."""


@dataclass(frozen=True, slots=True)
class TestSet:
    """The judged queries of a collection, and the passages that are relevant to them."""

    __test__ = False  # Not a test case, whatever pytest makes of the name.
    name: str
    queries: TextIndex
    passages: TextIndex


def read_test_set(path: str | Path, split: str = "test") -> TestSet:
    """A BEIR folder's judged queries, or the examples of a file that is held out."""
    path = Path(path)
    return read_test_folder(path, split) if path.is_dir() else read_test_file(path)


def read_test_folder(folder: Path, split: str) -> TestSet:
    """What `qrels/<split>.tsv` judges, whatever the grade; passages are those above 0."""
    collection = beir.read_collection(folder, split)
    judged = {judgement.query_id for judgement in collection.judgements}
    relevant = {judgement.document_id for judgement in collection.judgements if judgement.grade > 0}
    queries = {key: query.text for key, query in collection.queries.items() if key in judged}
    passages = {key: document.passage for key, document in collection.documents.items() if key in relevant}
    return TestSet(f"{folder.name}/{split}", named(queries, "query"), named(passages, "passage"))


def read_test_file(path: Path) -> TestSet:
    """The queries and positives of a file; a line stands for an id where there is none."""
    examples = read_examples(path)
    queries = {example.query_id or f"of line {example.place.line}": example.query for example in examples}
    passages = {example.positive_id or f"of line {example.place.line}": example.positive for example in examples}
    return TestSet(path.name, named(queries, "query"), named(passages, "passage"))


def named(texts: Mapping[str, str], what: str) -> TextIndex:
    """The index of some texts by id."""
    by_id = {identifier: normalised(text) for identifier, text in texts.items() if text}
    return TextIndex(by_id, {text: f"{what} {identifier}" for identifier, text in by_id.items()})


def find_leaked_queries(examples: Sequence[Example], tests: Sequence[TestSet]) -> Iterator[Finding]:
    """Examples whose query is judged in a test set."""
    indexes = [(test.name, test.queries) for test in tests]
    yield from find_leaks(Guard.LEAKED_QUERIES, examples, indexes, lambda e: e.query, lambda e: e.query_id)


def find_leaked_passages(examples: Sequence[Example], tests: Sequence[TestSet]) -> Iterator[Finding]:
    """Examples whose positive is relevant to a test query."""
    indexes = [(test.name, test.passages) for test in tests]
    yield from find_leaks(Guard.LEAKED_PASSAGES, examples, indexes, lambda e: e.positive, lambda e: e.positive_id)


def find_leaks(
    guard: Guard,
    examples: Sequence[Example],
    indexes: Sequence[tuple[str, TextIndex]],
    text_of: Callable[[Example], str],
    id_of: Callable[[Example], str | None],
) -> Iterator[Finding]:
    """At most one finding for an example: the first test set that has it."""
    texts = normalise_once(text_of(example) for example in examples)
    for file in by_file(examples):
        ids = {index: id_of(examples[index]) for index in file}
        comparable = [share_ids([(ids[index], texts[index]) for index in file], test) for _, test in indexes]
        for index in file:
            for (name, test), by_id in zip(indexes, comparable, strict=True):
                leak = leak_of(texts[index], ids[index] if by_id else None, test)
                if leak is not None:
                    yield Finding(guard, index, f"{quoted(text_of(examples[index]))} is {leak} of {name}")
                    break


def leak_of(text: str, identifier: str | None, test: TextIndex) -> str | None:
    """What of a test set this is, or None."""
    if text in test.names:
        return f"the text of {test.names[text]}"
    if identifier in test.by_id:
        return f"by its id {test.names[test.by_id[identifier]]}"
    return None


def share_ids(texts: Sequence[tuple[str | None, str]], test: TextIndex) -> bool:
    """Whether the ids of a file can be those of a test set."""
    common = {identifier: text for identifier, text in texts if identifier in test.by_id}
    agreeing = any(test.by_id[identifier] == text for identifier, text in common.items())
    return agreeing or len(common) < MIN_COMMON_IDS


def normalise_once(texts: Iterator[str]) -> list[str]:
    """The texts, normalised; a passage of many examples is gone through once."""
    known: dict[str, str] = {}
    return [known[text] if text in known else known.setdefault(text, normalised(text)) for text in texts]
