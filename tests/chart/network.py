"""What the network policies of a render let through, by Kubernetes' rules.

A pod that a policy selects has only what some policy of that direction allows, and a call needs both ends."""

from dataclasses import dataclass

from rendering import Object, Objects, Pod, selects


@dataclass(frozen=True)
class Network:
    objects: Objects

    def calls(self, port: int) -> set[tuple[str, str]]:
        """Pairs of components of which the first can reach the port of the second."""
        pods = self.objects.pods()
        return {
            (caller.component, callee.component)
            for caller in pods
            for callee in pods
            if port in callee.ports
            and self._allows(caller, "Egress", callee, port)
            and self._allows(callee, "Ingress", caller, port)
        }

    def is_open(self, pod: Pod, port: int) -> bool:
        """Whether some policy names the port for this pod."""
        return any(_names_port(rule, port) for rule in self._rules(pod, "Ingress"))

    def is_confined(self, pod: Pod) -> bool:
        """Whether what is not allowed is forbidden, in and out."""
        directions = {direction for policy in self._policies(pod) for direction in policy["policyTypes"]}
        return directions == {"Ingress", "Egress"}

    def _policies(self, pod: Pod) -> list[Object]:
        specs = [policy["spec"] for policy in self.objects.of_kind("NetworkPolicy")]
        return [spec for spec in specs if selects(spec["podSelector"], pod.labels)]

    def _rules(self, pod: Pod, direction: str) -> list[Object]:
        policies = [policy for policy in self._policies(pod) if direction in policy["policyTypes"]]
        return [rule for policy in policies for rule in policy.get(direction.lower(), [])]

    def _allows(self, pod: Pod, direction: str, other: Pod, port: int) -> bool:
        peers_key = "from" if direction == "Ingress" else "to"
        rules = [rule for rule in self._rules(pod, direction) if _names_port(rule, port)]
        return any(peers_key not in rule or _names_pod(rule[peers_key], other) for rule in rules)


def _names_port(rule: Object, port: int) -> bool:
    return any(entry["port"] == port for entry in rule.get("ports", []))


def _names_pod(peers: list[Object], pod: Pod) -> bool:
    """Peers in other namespaces and outside are not ours."""
    own = [peer["podSelector"] for peer in peers if peer.keys() == {"podSelector"}]
    return any(selects(selector, pod.labels) for selector in own)
