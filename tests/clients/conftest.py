"""What the tests need: each client, built as the README says, and a mesh with ten documents."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TOOLCHAINS = {"Python": "python3", "Go": "go", "TypeScript": "npm"}
BUILD_SECONDS, RUN_SECONDS = 1800, 120

COLLECTION = "sea"
DOCUMENTS = {
    "tides": ("What the moon does to the sea", "The moon pulls on the oceans: the water rises and falls twice a day."),
    "storms": ("Storm surges", "Wind and low pressure push the sea onto the land, worst of all at high tide."),
    "levels": ("Rising sea level", "Melting ice and warmer water raise the level of the oceans by millimetres a year."),
    "salt": ("Why the sea is salty", "Rivers wash minerals out of the rocks, and what evaporates leaves them behind."),
    "whales": ("Songs of the whales", "Humpback whales sing for hours, and others answer from hundreds of miles away."),
    "corals": ("Reefs that bleach", "In water that is too warm corals lose the algae that feed them."),
    "ports": ("Harbours", "Ships wait for the flood before they enter a shallow harbour."),
    "maps": ("Charts of the depths", "Sonar measures how deep the water is, and a ship draws the bottom line by line."),
    "lights": ("Lighthouses", "A lens of glass throws the light of a small lamp over twenty miles."),
    "untitled": ("", "Fishermen mend their nets in winter."),
}


@dataclass(frozen=True)
class Client:
    """A client that is ready to run."""

    folder: Path
    command: list[str]

    def run(self, address: str, *arguments: str | Path, key: str = "") -> subprocess.CompletedProcess[str]:
        """What it prints, asked for something that is in the collection unless `arguments` say otherwise."""
        asked = ["--address", address, "--collection", COLLECTION, "--query", "rising sea level"]
        command = [*self.command, *asked, *map(str, arguments)]
        environment = os.environ | {"FINEMESH_API_KEY": key}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS
        )


@dataclass(frozen=True)
class Mesh:
    """A mesh that runs, with `DOCUMENTS` as `COLLECTION`."""

    binary: Path
    address: str

    def search(self, pipeline: str) -> dict:
        """What the command line says to the query of `Client.run`."""
        command = [self.binary, "--address", f"http://{self.address}", "search", "--json", "--collection", COLLECTION]
        command += ["--pipeline", pipeline, "rising sea level"]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=RUN_SECONDS).stdout)


@pytest.fixture(scope="session", params=TOOLCHAINS)
def client(request: pytest.FixtureRequest) -> Client:
    language = request.param
    if not shutil.which(TOOLCHAINS[language]):
        lacking(f"the {language} client needs {TOOLCHAINS[language]}")
    *build, run = commands_of(language)
    subprocess.run(["bash", "-ec", "\n".join(build)], cwd=ROOT, check=True, timeout=BUILD_SECONDS)
    return Client(FOLDER / language.lower(), shlex.split(run.partition(" --address ")[0]))


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    binary, folder = find_binary(), tmp_path_factory.mktemp("mesh")
    lines = [json.dumps({"_id": id, "title": title, "text": text}) for id, (title, text) in DOCUMENTS.items()]
    (folder / "sea.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "finemesh.toml").write_text('[server]\naddress = "127.0.0.1:0"\n', "utf-8")
    command = [binary, "--config", folder / "finemesh.toml", "--data", folder / "data"]
    index = [*command, "index", "--collection", COLLECTION, folder / "sea.jsonl"]
    subprocess.run(index, check=True, capture_output=True, timeout=RUN_SECONDS)
    with subprocess.Popen([*command, "up"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Mesh(binary, next(line for line in process.stdout if "serves on" in line).strip().rpartition("/")[2])
        finally:
            process.terminate()


def commands_of(language: str) -> list[str]:
    """The lines that the README has for a language: how to build the client, the last one to run it."""
    text = (FOLDER / "README.md").read_text("utf-8")
    return re.search(rf"^## {language}\n.*?^```sh\n(.*?)\n```", text, re.DOTALL | re.MULTILINE)[1].splitlines()


def find_binary() -> Path:
    places = [os.environ.get("FINEMESH_BINARY", ""), ROOT / "target/debug/finemesh", ROOT / "target/release/finemesh"]
    for place in map(Path, filter(None, places)):
        if place.is_file():
            return place.absolute()
    lacking("no finemesh binary: cargo build -p finemesh, or name one in FINEMESH_BINARY")


def lacking(what: str) -> NoReturn:
    """Ends a test that cannot be made here."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
