"""What holds for the objects of every scenario."""

import re
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from network import Network
from rendering import NAMESPACE, Objects, Pod, configuration_text, name_of

DRAIN_SECONDS = 20
"""What the program takes at most from SIGTERM to its end."""

SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")

CALL_GRAPH = {
    ("orchestrator", "encoder"),
    ("orchestrator", "sparse-retriever"),
    ("orchestrator", "dense-retriever"),
    ("orchestrator", "colbert-scorer"),
    ("orchestrator", "cross-encoder"),
    ("colbert-scorer", "encoder"),
    ("test", "orchestrator"),
}


def configuration(objects: Objects, pod: Pod) -> dict:
    return tomllib.loads(configuration_text(objects, pod))


def least_pods(objects: Objects, pod: Pod) -> int:
    """How many there are where nothing is to do."""
    target = name_of(pod.owner)
    for scaler in objects.of_kind(*SCALERS):
        spec = scaler["spec"]
        if f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}" == target:
            return spec["minReplicas"] if "minReplicas" in spec else spec["minReplicaCount"]
    return pod.owner["spec"]["replicas"]


def test_names_are_unique(objects: Objects) -> None:
    names = [name_of(one) for one in objects.all]
    assert len(names) == len(set(names))


def test_containers_are_confined(objects: Objects) -> None:
    for pod in objects.pods():
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.spec["automountServiceAccountToken"] is False
        for container in pod.containers:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_containers_have_limits(objects: Objects) -> None:
    for pod in objects.pods():
        for container in pod.containers:
            for bounds in ("requests", "limits"):
                assert container["resources"][bounds].keys() >= {"cpu", "memory"}, (pod.component, container["name"])


def test_mounts_have_volumes(objects: Objects) -> None:
    for pod in objects.pods():
        claims = pod.owner["spec"].get("volumeClaimTemplates", [])
        volumes = {volume["name"] for volume in pod.spec["volumes"]} | {claim["metadata"]["name"] for claim in claims}
        mounts = {mount["name"] for container in pod.containers for mount in container["volumeMounts"]}
        assert mounts <= volumes
        assert volumes <= mounts, "a volume that nobody mounts"


def test_a_pod_has_time_to_drain(objects: Objects) -> None:
    for pod in objects.servers():
        (container,) = pod.spec["containers"]
        sleeps = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleeps > 0
        assert pod.spec["terminationGracePeriodSeconds"] > sleeps + DRAIN_SECONDS


def test_servers_are_probed(objects: Objects) -> None:
    for pod in objects.servers():
        (container,) = pod.spec["containers"]
        probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
        commands = {name: probe["exec"]["command"] for name, probe in probes.items()}
        assert "--live" in commands["liveness"]
        assert "--live" not in commands["readiness"]
        assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 600


def test_the_configuration_is_checked_and_rolled_out(objects: Objects) -> None:
    for pod in objects.pods():
        first = pod.spec["initContainers"][0]
        assert first["args"][0] == "check-config"
        (container,) = pod.spec["containers"]
        assert first["volumeMounts"] == container["volumeMounts"], "what it checks is what is read"
        assert first.get("env") == container.get("env")
        if pod.owner["kind"] != "Pod":
            text = configuration_text(objects, pod)
            assert pod.annotations["checksum/config"] == sha256(text.rstrip().encode()).hexdigest()


def test_each_shard_has_its_replicas(objects: Objects, values_file: Path) -> None:
    shards = yaml.safe_load(values_file.read_text()).get("shards", 1)
    for pod in objects.pods():
        is_sharded = pod.owner["kind"] == "StatefulSet"
        environment = [variable for container in pod.containers for variable in container.get("env", [])]
        ordinals = [variable for variable in environment if variable["name"].endswith("__ORDINAL")]
        assert bool(ordinals) == is_sharded
        for variable in ordinals:
            assert variable["name"] == f"FINEMESH__{pod.component.replace('-', '_').upper()}__ORDINAL"
            assert "pod-index" in variable["valueFrom"]["fieldRef"]["fieldPath"]
        if is_sharded:
            assert pod.owner["spec"]["podManagementPolicy"] == "Parallel"
            assert pod.owner["spec"]["serviceName"] in objects.names("Service")
            pods = least_pods(objects, pod)
            assert pods >= shards
            assert pods % shards == 0


def test_peers_are_headless_services(objects: Objects) -> None:
    for pod in objects.servers():
        peers = configuration(objects, pod).get("peers", {})
        addresses = [address for value in peers.values() if isinstance(value, list) for address in value]
        for address in addresses:
            service, port = re.fullmatch(r"dns:///([a-z-]+):(\d+)", address).groups()
            spec = objects.named("Service", service)["spec"]
            assert spec["clusterIP"] == "None"
            assert int(port) in [entry["port"] for entry in spec["ports"]]
        assert bool(addresses) == (pod.component in {caller for caller, _ in CALL_GRAPH})


def test_services_lead_to_one_stage(objects: Objects) -> None:
    for service in objects.of_kind("Service"):
        pods = objects.selected_by({"matchLabels": service["spec"]["selector"]})
        assert len(pods) == 1, name_of(service)
        names = {port["name"] for container in pods[0].containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def test_disruption_budgets_leave_a_pod_to_evict(objects: Objects) -> None:
    budgets = objects.of_kind("PodDisruptionBudget")
    assert len(budgets) == len(objects.servers())
    for budget in budgets:
        (pod,) = objects.selected_by(budget["spec"]["selector"])
        assert budget["spec"].get("minAvailable", 0) < least_pods(objects, pod)
        assert budget["spec"].get("maxUnavailable", 1) >= 1


def test_autoscalers_have_targets_that_nobody_else_scales(objects: Objects) -> None:
    for scaler in objects.of_kind(*SCALERS):
        reference = scaler["spec"]["scaleTargetRef"]
        target = objects.named(reference["kind"], reference["name"])
        assert "replicas" not in target["spec"]
    scaled = objects.of_kind("HorizontalPodAutoscaler")
    assert all(scaler["spec"]["behavior"].keys() == {"scaleUp", "scaleDown"} for scaler in scaled)


def test_spread_and_affinity_are_about_the_own_pods(objects: Objects) -> None:
    for pod in objects.servers():
        for constraint in pod.spec["topologySpreadConstraints"]:
            assert objects.selected_by(constraint["labelSelector"]) == [pod]


@pytest.fixture
def network(objects: Objects) -> Network:
    if not objects.of_kind("NetworkPolicy"):
        pytest.skip("this scenario has no policies")
    return Network(objects)


def test_policies_are_the_call_graph(objects: Objects, network: Network) -> None:
    present = {pod.component for pod in objects.pods()}
    expected = {(caller, callee) for caller, callee in CALL_GRAPH if {caller, callee} <= present}
    assert network.calls(7700) == expected


def test_policies_confine_every_pod_and_open_every_port(objects: Objects, network: Network) -> None:
    for pod in objects.pods():
        assert network.is_confined(pod)
        for port in pod.ports:
            assert network.is_open(pod, port), (pod.component, port)


def test_only_callers_of_the_graph_are_allowed(objects: Objects) -> None:
    identities = {pod.component: f"{pod.owner['metadata']['name']}.{NAMESPACE}.svc" for pod in objects.servers()}
    for pod in objects.servers():
        server = configuration(objects, pod)["server"]
        callers = {caller for caller, callee in CALL_GRAPH if callee == pod.component}
        allowed = server.get("access", {}).get("callers", {})
        if "tls" in server and pod.component != "orchestrator":
            assert [set(names) for names in allowed.values()] == [{identities[caller] for caller in callers}]
            assert "client_ca" in server["tls"], "who calls is known by its certificate"
        else:
            assert not allowed


def test_certificates_name_what_is_called(objects: Objects) -> None:
    certificates = {one["spec"]["secretName"]: one["spec"] for one in objects.of_kind("Certificate")}
    for pod in objects.servers() if certificates else []:
        volume = next(volume for volume in pod.spec["volumes"] if volume["name"] == "tls")
        certificate = certificates[volume["secret"]["secretName"]]
        services = [
            service["metadata"]["name"]
            for service in objects.of_kind("Service")
            if pod in objects.selected_by({"matchLabels": service["spec"]["selector"]})
        ]
        for service in services:
            assert {service, f"{service}.{NAMESPACE}.svc"} <= set(certificate["dnsNames"])


def test_plaintext_is_said_where_there_is_no_tls(objects: Objects) -> None:
    for pod in objects.servers():
        config = configuration(objects, pod)
        assert ("tls" in config["server"]) != config["server"].get("plaintext", False)
