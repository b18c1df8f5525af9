"""The command line: what `make cluster-*` and people call. Errors are one line, no traceback.

CLUSTER=existing with KUBECONFIG makes every command speak of that cluster instead.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import binary, drivers, packages, prerequisites
from tests.cluster.drivers import Driver
from tests.cluster.errors import ClusterError
from tests.cluster.layout import cache_folder, layout_from

Command = Callable[[argparse.Namespace], int]


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    command: Command = arguments.command
    try:
        return command(arguments)
    except (ClusterError, OSError) as error:  # a full disk, a folder that may not be written
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted; `down` or the next `up` clears away the rest", file=sys.stderr)
        return 130


def _driver(arguments: argparse.Namespace) -> Driver:
    return drivers.driver_for(os.environ, layout_from(os.environ, arguments.node, arguments.name))


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    driver = _driver(arguments)
    before = driver.status() == "up" if not isinstance(driver, drivers.Existing) else True
    path = driver.up()
    if arguments.archive:
        driver.load(arguments.archive)
    print(f"cluster {'was' if before else 'is'} up ({time.monotonic() - started:.1f} s)")
    print(f"export KUBECONFIG={path}")
    return 0


def _down(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    existed = _driver(arguments).down()
    elapsed = f"{time.monotonic() - started:.1f} s"
    print(f"cluster is down ({elapsed})" if existed else "no cluster of ours was up")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    driver = _driver(arguments)
    state = driver.status()
    print(f"cluster is {state}{': make cluster-up mends it' if state == 'broken' else ''}")
    if state != "up":
        return 1
    print(f"export KUBECONFIG={driver.kubeconfig()}")
    labels = ("-L", "lockstep.dev/tier")
    print(drivers.kubectl(driver, "get", "nodes", *labels), end="")
    return 0


def _load(arguments: argparse.Namespace) -> int:
    _driver(arguments).load(arguments.archive)
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise ClusterError("exec what? For example: exec device -- tc qdisc show dev eth0")
    command = _driver(arguments).node_exec(arguments.where, words)
    return subprocess.run(command, check=False).returncode


def _kubeconfig(arguments: argparse.Namespace) -> int:
    print(_driver(arguments).kubeconfig())
    return 0


def _tools(arguments: argparse.Namespace) -> int:
    print(_driver(arguments).tool("kubectl").parent)
    return 0


def _deps(_: argparse.Namespace) -> int:
    prerequisites.check_machine()
    packages.install_packages()
    return 0


def _build(arguments: argparse.Namespace) -> int:
    if isinstance(_driver(arguments), drivers.Embedded):
        binary.kubeall()
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    if _driver(arguments).status() != "down":
        raise ClusterError("take the cluster down first: its images are in the cache")
    folder = cache_folder() / "cluster"
    shutil.rmtree(folder, ignore_errors=True)
    binary.remove_old_builds()
    print(f"removed {folder} and old builds; today's binary stays in {cache_folder()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument(
        "--node",
        action="append",
        metavar="NAME=TIER[:CPU[:MEMORY]]",
        help="a node, such as edge=edge:1500m:8Gi; again for more (or LOCKSTEP_NODES)",
    )
    parser.add_argument(
        "--name",
        help="another cluster beside the first: at most 10 letters (or LOCKSTEP_CLUSTER_NAME)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    archives = "OCI layout folder or archive"
    up = add("up", _up, "bring the cluster up, unless it is, and load images")
    up.add_argument("archive", nargs="*", type=Path, help=archives)
    add("down", _down, "take the cluster away, crashed or not; images stay cached")
    add("status", _status, "say how the cluster is; exit code 1 unless up")
    load = add("load", _load, "bring images to all nodes; sends only what is missing")
    load.add_argument("archive", nargs="+", type=Path, help=archives)
    on_node = add("exec", _exec, "run a command in a node's network namespace")
    on_node.add_argument("where", metavar="NODE")
    on_node.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    add("kubeconfig", _kubeconfig, "print the path of the kubeconfig")
    add("tools", _tools, "print a folder with kubectl and helm, for PATH")
    add("build", _build, "compile Kubernetes, unless it is; `up` waits for one that runs")
    add("deps", _deps, "install the Debian packages that are missing")
    add("clean", _clean, "delete the nodes' cached images and old builds")
    return parser
