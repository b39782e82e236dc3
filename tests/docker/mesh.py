"""A mesh of containers, and queries that go on while something happens to it."""

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import ENVIRONMENT, ROOT, docker, inspect

PROJECT = "finemesh-test"
COLLECTION = "papers"
SHARDS = 2
ORCHESTRATOR = "http://orchestrator:7700"
INDEXER = "http://indexer:7700"
STAGES = "sparse,dense,colbert"
TOPICS = ["sea level rise", "galaxies and redshift", "deep learning", "protein folding", "graph theory"]
DOCUMENTS_PER_TOPIC = 12
QUERIES_PER_SECOND = 5
# A busy machine is late; that is not what is looked at.
BUDGET_MS = 10_000
PATIENCE_SECONDS = 60


class Mesh:
    """The compose file's, under another name and on a free port."""

    def __init__(self, image: str, folder: Path):
        self.variables = {"FINEMESH_IMAGE": image, "FINEMESH_PORT": "0"}
        self.folder = folder

    def compose(self, *arguments: str, stdin: str = "") -> str:
        return docker(*compose_command(*arguments), stdin=stdin, **self.variables)

    def start(self) -> None:
        """Up, and a small collection in it."""
        self.compose("up", "--wait", "--no-build")
        (self.folder / "queries.jsonl").write_text(lines({"_id": topic, "text": topic} for topic in TOPICS))
        documents = (
            {"_id": f"{topic} {number}", "text": f"Paper number {number} is about {topic}."}
            for topic in TOPICS
            for number in range(DOCUMENTS_PER_TOPIC)
        )
        index = f"index --collection {COLLECTION} --shards {SHARDS} --stages {STAGES} -"
        self.cli("--address", INDEXER, *index.split(), stdin=lines(documents))
        wait_for(lambda: self.search("colbert", TOPICS[0])["hits"], "the collection in answers")

    def remove(self) -> None:
        self.compose("--profile", "cli", "down", "--volumes", "--timeout", "1")

    def cli(self, *arguments: str, stdin: str = "") -> str:
        return self.compose("run", "--rm", "--no-deps", "-T", "cli", *arguments, stdin=stdin)

    def search(self, pipeline: str, query: str) -> dict:
        """An answer; one without hits while there is none."""
        search = f"search --collection {COLLECTION} --pipeline {pipeline} --budget-ms {BUDGET_MS} --json"
        try:
            return json.loads(self.cli("--address", ORCHESTRATOR, *search.split(), query))
        except AssertionError as error:
            return {"hits": [], "error": str(error)}

    def scale(self, service: str, replicas: int) -> None:
        """Back when all of them are well."""
        self.compose(*f"up --wait --no-build --no-deps --no-recreate --scale {service}={replicas} {service}".split())

    def containers(self, service: str) -> list[str]:
        """Those that run."""
        return self.compose("ps", "--quiet", "--status", "running", service).split()

    def replicas_seen(self, name: str) -> int:
        """How many the orchestrator has found under a name of the network."""
        log = self.compose("logs", "--no-log-prefix", "orchestrator")
        found = re.findall(rf'host="{name}" addresses=\{{([^}}]*)\}}', log)
        return found[-1].count(":") if found else 0

    def await_replicas(self, name: str, count: int) -> None:
        wait_for(lambda: self.replicas_seen(name) == count, f"{count} replicas under the name {name}")

    @contextmanager
    def load(self, seconds: int) -> Iterator[dict]:
        """A steady stream of queries, whatever comes of those before. In the end the dictionary says how it went."""
        run = f"run --rm --no-deps -T --volume {self.folder}:/corpus:ro cli --address {ORCHESTRATOR}"
        bench = f"bench --collection {COLLECTION} --queries /corpus/queries.jsonl --budget-ms {BUDGET_MS} --json"
        rate = f"--qps {QUERIES_PER_SECOND} --duration-s {seconds} --warmup-s 0"
        command = ["docker", *compose_command(*f"{run} {bench} {rate}".split())]
        outcome: dict = {}
        client = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | self.variables
        )
        yield outcome
        is_covered = client.poll() is None
        stdout, stderr = client.communicate()
        assert client.returncode == 0, stderr
        assert is_covered, f"{seconds} seconds of queries were over before what was to happen had happened"
        outcome.update(json.loads(stdout)["rates"][0])


def compose_command(*arguments: str) -> list[str]:
    return ["compose", "--file", str(ROOT / "deploy/compose.yaml"), "--project-name", PROJECT, *arguments]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def wait_for(is_so: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < end, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.5)


def calls(container: str, rpc: str) -> int:
    """How often one was called, by its own metrics."""
    networks = inspect(container)["NetworkSettings"]["Networks"]
    address = next(iter(networks.values()))["IPAddress"]
    with urllib.request.urlopen(f"http://{address}:9464/metrics", timeout=PATIENCE_SECONDS) as answer:
        metrics = answer.read().decode()
    counts = re.findall(rf"^finemesh_calls_duration_seconds_count{{[^}}]*{rpc}[^}}]*}} (\d+)", metrics, re.MULTILINE)
    return sum(map(int, counts))
