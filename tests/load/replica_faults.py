"""One of two replicas is killed, or made ten times as slow, under load: what it costs, with every service as a process of its own.

    python3 tests/load/replica_faults.py FINEMESH DATA COLLECTION QUERIES --qps 20 [--service encoder] [--fault slow]

FINEMESH is the binary, DATA a folder with the collection, QUERIES its queries in BEIR's JSONL. `--qps` is meant to be 70 % of what the
mesh answers. The load is open (`finemesh bench`) and without a budget of its own. Three rows: before the fault, the five seconds from
it on, and what comes after them. A process is slow in that it is stopped nine tenths of the time.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

REPLICAS = 2
SERVICES = ["encoder", "sparse-retriever", "dense-retriever"]
# Of a process that is slow: runs, is stopped.
SLOW_SECONDS = (0.01, 0.09)
START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Mesh:
    """Two processes of each service, and an orchestrator over them."""

    def __init__(self, binary: str, data: pathlib.Path, folder: pathlib.Path):
        self.binary, self.data, self.folder = binary, data, folder
        self.processes = {service: [] for service in SERVICES}
        peers = {service: [] for service in SERVICES}
        for service in SERVICES:
            for _ in range(REPLICAS):
                port, process = self.start(service, "")
                self.processes[service].append(process)
                peers[service].append(f'"127.0.0.1:{port}"')
        section = "[peers]\n" + "".join(
            f"{service.replace('-', '_')} = [{', '.join(addresses)}]\n" for service, addresses in peers.items()
        )
        port, self.orchestrator = self.start("orchestrator", section)
        self.address = f"http://127.0.0.1:{port}"

    def start(self, service: str, peers: str):
        port = free_port()
        config = self.folder / f"{service}-{port}.toml"
        # One thread each, so that replicas share the machine's cores and do not fight for them.
        threads = "".join(f"[{name}_retriever]\ncompute_threads = 1\n" for name in ("sparse", "dense"))
        cache = "[encoder]\nquery_cache_mib = 0\n"
        config.write_text(f'[server]\naddress = "127.0.0.1:{port}"\n{cache}{threads}{peers}')
        log = (self.folder / f"{service}-{port}.log").open("w")
        command = [self.binary, "--config", config, "--data", self.data, "serve", "--target", service]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self.await_port(port, process)
        return port, process

    def await_port(self, port: int, process: subprocess.Popen) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit(f"a service did not start; its log is in {self.folder}")

    def stop(self) -> None:
        for process in [self.orchestrator, *sum(self.processes.values(), [])]:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()


def slow_down(process: subprocess.Popen, is_over: threading.Event) -> None:
    runs, is_stopped = SLOW_SECONDS
    while not is_over.is_set():
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(is_stopped)
        os.kill(process.pid, signal.SIGCONT)
        time.sleep(runs)


def offer(mesh: Mesh, args, seconds: int, warmup: int) -> dict:
    command = [args.binary, "--address", mesh.address, "bench", "--collection", args.collection, "--json"]
    command += ["--queries", args.queries, "--qps", str(args.qps)]
    command += ["--duration-s", str(seconds), "--warmup-s", str(warmup)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(result.stdout)["rates"][0]


def tell(name: str, rate: dict) -> None:
    latency = rate["latency_us"]
    times = "  ".join(f"{key} {latency[key] / 1e3:7.1f} ms" for key in ("p50", "p99", "max"))
    lost = sum(rate["errors"].values())
    print(f"{name:22}  {times}  answered {rate['answered']}, lost {lost}, degraded {rate['degraded_share']:.1%}")


def measure(args, service: str, fault: str, folder: pathlib.Path) -> None:
    mesh = Mesh(args.binary, args.data, folder)
    is_over = threading.Event()
    try:
        tell(f"{service}: before", offer(mesh, args, args.seconds, 5))
        victim = mesh.processes[service][0]
        if fault == "kill":
            victim.kill()
        else:
            threading.Thread(target=slow_down, args=(victim, is_over)).start()
        tell(f"{service}: {fault}, first 5 s", offer(mesh, args, 5, 0))
        tell(f"{service}: {fault}, after", offer(mesh, args, args.seconds, 0))
    finally:
        is_over.set()
        time.sleep(2 * sum(SLOW_SECONDS))
        mesh.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("collection")
    parser.add_argument("queries")
    parser.add_argument("--qps", type=float, required=True)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--service", choices=SERVICES, action="append")
    parser.add_argument("--fault", choices=["kill", "slow"], action="append")
    args = parser.parse_args()
    for service in args.service or SERVICES:
        for fault in args.fault or ["kill", "slow"]:
            with tempfile.TemporaryDirectory() as folder:
                measure(args, service, fault, pathlib.Path(folder))


if __name__ == "__main__":
    main()
