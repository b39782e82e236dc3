"""What the guards find, and what is done about it."""

from dataclasses import replace
from pathlib import Path

import pytest

from finemesh_trainer.data.examples import Example, write_examples
from finemesh_trainer.data.guards import Guard, GuardPolicy, enforce, guard_examples, inspect, read_test_set
from finemesh_trainer.data.guards.duplicates import near_originals
from finemesh_trainer.data.lines import Place
from finemesh_trainer.data.load import load_examples, load_training_examples
from finemesh_trainer.data.text import jaccard, shingles, words
from finemesh_trainer.errors import DataError, TrainerError

PASSAGE = "the quick brown fox jumps over the lazy dog and then it sleeps under an old oak tree until the sun goes down"
OTHER = "granite is a coarse grained igneous rock composed mostly of quartz alkali feldspar and plagioclase"
KEEP_ALL = GuardPolicy(**dict.fromkeys(Guard, "keep"))


def found(examples: list[Example], guard: Guard, tests: tuple = ()) -> list[tuple[int, str]]:
    """Index and message of what one guard finds."""
    return [(finding.example, finding.message) for finding in inspect(examples, tests)[guard]]


def write_test_folder(folder: Path, queries: dict[str, str], passages: dict[str, str]) -> Path:
    """A collection whose queries are each answered by the passage of the same rank."""
    (folder / "qrels").mkdir(parents=True)
    lines = [f'{{"_id": "{key}", "text": "{text}"}}' for key, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines))
    lines = [f'{{"_id": "{key}", "title": "", "text": "{text}"}}' for key, text in passages.items()]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    lines = [f"{query}\t{document}\t1" for query, document in zip(queries, passages, strict=True)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    return folder


def test_queries_leak_by_text_and_by_id(tmp_path: Path) -> None:
    test = read_test_set(
        write_test_folder(tmp_path / "judged", {"q1": "Who, me?", "q2": "and you"}, {"a": "x", "b": "y"})
    )
    examples = [
        Example("who me", PASSAGE, query_id="z"),
        Example("something else", PASSAGE, query_id="q2"),
        Example("unseen", PASSAGE, query_id="q3"),
    ]
    assert found(examples, Guard.LEAKED_QUERIES, (test,)) == [
        (0, '"who me" is the text of query q1 of judged/test'),
        (1, '"something else" is by its id query q2 of judged/test'),
    ]


def test_ids_that_count_other_things_are_no_leak(tmp_path: Path) -> None:
    queries = {str(number): f"judged question {number}" for number in range(20)}
    test = read_test_set(write_test_folder(tmp_path / "judged", queries, {f"d{key}": key for key in queries}))
    examples = [Example(f"training question {number}", PASSAGE, query_id=str(number)) for number in range(20)]
    assert found(examples, Guard.LEAKED_QUERIES, (test,)) == []
    # One query that is the same under the same id shows that both count the same things.
    examples[0] = replace(examples[0], query="Judged question 0")
    assert len(found(examples, Guard.LEAKED_QUERIES, (test,))) == 20


def test_passages_leak_only_where_they_are_relevant(tmp_path: Path) -> None:
    folder = write_test_folder(tmp_path / "judged", {"q1": "who"}, {"a": "Relevant text."})
    with (folder / "corpus.jsonl").open("a") as corpus:
        corpus.write('\n{"_id": "b", "title": "", "text": "judged by nobody"}')
    examples = [Example("x", "relevant TEXT"), Example("y", "judged by nobody")]
    leaks = found(examples, Guard.LEAKED_PASSAGES, (read_test_set(folder),))
    assert leaks == [(0, '"relevant TEXT" is the text of passage a of judged/test')]


def test_a_file_of_examples_can_be_held_out(tmp_path: Path) -> None:
    write_examples(tmp_path / "held.jsonl", [Example("who me", PASSAGE)])
    leaks = found([Example("Who me?", OTHER)], Guard.LEAKED_QUERIES, (read_test_set(tmp_path / "held.jsonl"),))
    assert leaks == [(0, '"Who me?" is the text of query of line 1 of held.jsonl')]


def test_pairs_that_come_twice_are_found() -> None:
    examples = [Example("one  Query", PASSAGE), Example("one query", OTHER), Example("One query", PASSAGE)]
    assert [index for index, _ in found(examples, Guard.REPEATED_PAIRS)] == [2]
    assert found([Example("what is +", PASSAGE), Example("what is -", PASSAGE)], Guard.REPEATED_PAIRS) == []


def test_near_duplicates_of_passages_are_found() -> None:
    examples = [
        Example("a", PASSAGE, positive_id="1"),
        Example("b", PASSAGE, positive_id="1"),
        Example("c", PASSAGE, positive_id="2"),
        Example("d", PASSAGE.upper() + "!", positive_id="3"),
        Example("e", PASSAGE.replace("down", "up"), positive_id="4"),
        Example("f", OTHER, positive_id="5"),
        Example("g", PASSAGE + " again", positive_id="1"),
        Example("h", PASSAGE + " again"),
    ]
    assert [index for index, _ in found(examples, Guard.DUPLICATED_PASSAGES)] == [2, 3, 4, 7]


def test_near_duplicates_agree_with_a_comparison_of_all() -> None:
    texts = [" ".join(f"w{(start + offset) % 97}" for offset in range(60)) for start in range(97)]
    runs = {text: shingles(words(text), 5) for text in texts}
    originals: list[str] = []
    for text in texts:
        if not any(jaccard(runs[text], runs[other]) >= 0.8 for other in originals):
            originals.append(text)
    assert 5 < len(originals) < 30
    assert list(dict.fromkeys(near_originals(texts).values())) == originals


def test_templates_are_found_and_capped_per_file() -> None:
    examples = [Example(f"What are the symptoms of illness{number}?", f"x{number}") for number in range(60)]
    examples += [Example(f"Singular question {number} x{number}", f"y{number}") for number in range(90)]
    messages = found(examples, Guard.TEMPLATES)
    assert [index for index, _ in messages] == list(range(60))
    assert messages[0][1].endswith('is one of 60 of the form "what are the symptoms of …"')

    kept = guard_examples(examples, [], GuardPolicy(), seed=1).examples
    assert len(kept) == 100
    assert kept == guard_examples(examples, [], GuardPolicy(), seed=1).examples
    assert kept != guard_examples(examples, [], GuardPolicy(), seed=2).examples


def test_plain_questions_are_no_template() -> None:
    examples = [Example(f"What is the word{number}?", f"y{number}") for number in range(60)]
    assert found(examples, Guard.TEMPLATES) == []


def test_copies_are_found() -> None:
    examples = [
        Example("The lazy dog, and then it sleeps", PASSAGE),
        Example("lazy dog sleeps", PASSAGE),
        Example("where does the dog sleep in the evening", PASSAGE),
    ]
    assert [index for index, _ in found(examples, Guard.COPIES)] == [0]


def test_false_negatives_are_found_and_dropped_alone() -> None:
    near = PASSAGE.replace("down", "up")
    first = Example("q", PASSAGE, (PASSAGE + ".", OTHER, near, "y"), negative_scores=(4.0, 3.0, 2.0, 1.0))
    second = Example("Q?", "another answer altogether", (PASSAGE,), positive_id="a")
    third = Example("r", "some passage", ("its earlier text",), positive_id="b", negative_ids=("b",))
    findings = inspect([first, second, third], [])[Guard.FALSE_NEGATIVES]
    assert [(finding.example, finding.negative) for finding in findings] == [(0, 0), (0, 2), (1, 0), (2, 0)]

    kept = guard_examples([first, second, third], [], replace(KEEP_ALL, false_negatives="drop")).examples
    assert kept[0] == Example("q", PASSAGE, (OTHER, "y"), negative_scores=(3.0, 1.0))
    assert [len(example.negatives) for example in kept] == [2, 0, 0]


def test_what_is_refused_is_named_with_its_line() -> None:
    place = Place(Path("train.jsonl"), 7)
    examples = [Example("a", OTHER), *[Example("q", PASSAGE, place=place)] * 3]
    with pytest.raises(DataError, match=r'^train.jsonl:7: "q" with the same passage .*; 1 more repeated pairs$'):
        guard_examples(examples, [], replace(KEEP_ALL, repeated_pairs="refuse"))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_cap_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="max_template_share is"):
        GuardPolicy(max_template_share=share)


def test_keep_leaves_everything() -> None:
    examples = [Example("the quick brown fox jumps", PASSAGE)] * 2
    guarded = guard_examples(examples, [], KEEP_ALL)
    assert guarded.examples == examples
    assert len(guarded.findings[Guard.COPIES]) == 2


def test_nothing_left_is_an_error() -> None:
    examples = [Example("the quick brown fox jumps", PASSAGE)]
    with pytest.raises(TrainerError, match="no example is left"):
        enforce(examples, inspect(examples, []), GuardPolicy())


def test_files_and_folders_are_loaded_and_guarded(tmp_path: Path) -> None:
    folder = write_test_folder(tmp_path / "judged", {"q1": "who"}, {"a": "answer"})
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "train.tsv")
    write_examples(tmp_path / "pairs.jsonl", [Example("what", "that")])
    assert [example.query for example in load_examples([folder, tmp_path / "pairs.jsonl"])] == ["who", "what"]
    with pytest.raises(DataError, match=r'pairs.jsonl:1: "what" is the text of query of line 1 of pairs.jsonl'):
        load_training_examples([tmp_path / "pairs.jsonl"], [tmp_path / "pairs.jsonl"], GuardPolicy())
