"""Renders of the chart, and questions about them."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

CHART = Path(__file__).parents[2] / "k8s/finemesh"
CI_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
RELEASE = "finemesh"
NAMESPACE = "search"
KUBERNETES = ("1.30", "1.37")
"""The oldest version that the chart is for, and the newest one whose schemas there are."""

Object = dict[str, Any]
Labels = Mapping[str, str]


def scenario_of(values_file: Path) -> str:
    return values_file.name.removesuffix("-values.yaml")


@dataclass(frozen=True)
class Chart:
    """The chart, as a helm sees it."""

    helm: str
    folder: Path = CHART

    def lint(self, values_file: Path) -> subprocess.CompletedProcess[str]:
        return self._run("lint", self.folder, "--strict", "--values", values_file)

    def template(self, values_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        place = [RELEASE, self.folder, "--namespace", NAMESPACE]
        return self._run("template", *place, "--values", values_file, *arguments)

    def _run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [self.helm, *arguments, "--kube-version", KUBERNETES[-1]]
        return subprocess.run(command, capture_output=True, text=True)

    def render(self, values_file: Path, *arguments: str) -> str:
        outcome = self.template(values_file, *arguments)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout


@dataclass(frozen=True)
class Pod:
    """A pod that some object makes."""

    owner: Object
    labels: Labels
    annotations: Labels
    spec: Object

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> list[int]:
        return [port["containerPort"] for container in self.containers for port in container.get("ports", [])]


@dataclass(frozen=True)
class Objects:
    """What one render consists of."""

    all: Sequence[Object]

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls([document for document in yaml.safe_load_all(text) if document])

    def of_kind(self, *kinds: str) -> list[Object]:
        return [one for one in self.all if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        return next(one for one in self.of_kind(kind) if one["metadata"]["name"] == name)

    def names(self, kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in self.of_kind(kind)}

    def pods(self) -> list[Pod]:
        return [pod for one in self.all for pod in _pods_of(one)]

    def servers(self) -> list[Pod]:
        return [pod for pod in self.pods() if pod.owner["kind"] in ("Deployment", "StatefulSet")]

    def selected_by(self, selector: Object) -> list[Pod]:
        return [pod for pod in self.pods() if selects(selector, pod.labels)]


def _pods_of(owner: Object) -> Iterator[Pod]:
    match owner["kind"]:
        case "Pod":
            template = owner
        case "Deployment" | "StatefulSet" | "Job":
            template = owner["spec"]["template"]
        case "CronJob":
            template = owner["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            return
    metadata = template["metadata"]
    yield Pod(owner, metadata["labels"], metadata.get("annotations", {}), template["spec"])


def selects(selector: Object, labels: Labels) -> bool:
    """Whether a label selector matches; of expressions it knows `In`."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def name_of(one: Object) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def configuration_text(objects: Objects, pod: Pod) -> str:
    """What the pod's program reads."""
    volume = next(volume for volume in pod.spec["volumes"] if volume["name"] == "config")
    return objects.named("ConfigMap", volume["configMap"]["name"])["data"]["finemesh.toml"]
