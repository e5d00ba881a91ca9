"""Which client libraries are driven against the service, and how one of them is run.

Each is a program in an environment that it shares with few others: their pins conflict. Program
and service are in a network namespace without a way out where root runs them, so that a library
which downloads something fails, here as on a site.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from support import free_port
from waiting import until

HERE = Path(__file__).parent
TESTS = HERE.parent
ROOT = TESTS.parents[1]
ENVIRONMENTS = ROOT / ".cache" / "clients"
RECORDED = HERE / "recorded.json"
SECONDS = 120
# what would otherwise be asked of the Internet, by the names that docs/how-to/clients.md gives
OFFLINE = {
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}
Environment = Literal["current", "openai2", "node", "serving"]


@dataclass(frozen=True)
class Client:
    """A library; `serving` means that the environment of the serving tests has it, too."""

    name: str
    program: str
    environment: Environment
    serving: bool = False

    def command(self, *, everywhere: bool) -> list[str]:
        """`everywhere`: where all serving tests run, if the library is there, too."""
        if self.environment == "node":
            return ["node", str(modules() / f"{self.program}.mjs")]
        chosen = "serving" if everywhere and self.serving else self.environment
        return [interpreter(chosen), str(HERE / "libraries" / f"{self.program}.py")]


CLIENTS = (
    Client("openai 3", "client_openai", "current", serving=True),
    Client("openai 2", "client_openai", "openai2"),
    Client("langchain-openai", "client_langchain_openai", "current", serving=True),
    Client("langchain-deepseek", "client_langchain_deepseek", "current"),
    Client("litellm", "client_litellm", "current"),
    Client("instructor", "client_instructor", "openai2"),
    Client("pydantic-ai", "client_pydantic_ai", "current"),
    Client("openai-agents", "client_openai_agents", "current"),
    Client("llama-index", "client_llama_index", "openai2"),
    Client("haystack-ai", "client_haystack", "current"),
    Client("smolagents", "client_smolagents", "current"),
    Client("autogen-ext", "client_autogen", "current"),
    Client("openai (Node)", "client_openai", "node"),
    Client("ai, @ai-sdk/openai", "client_ai_openai", "node"),
    Client("ai, @ai-sdk/openai-compatible", "client_ai_compatible", "node"),
    Client("@langchain/openai", "client_langchain", "node"),
)


def all_clients() -> bool:
    """Whether what needs an environment of its own is to be run."""
    return os.environ.get("ONPREM_TEST_ALL") == "true"


def modules() -> Path:
    """The programs for Node where they find their libraries, which is above them."""
    place = ENVIRONMENTS / "node"
    for program in (HERE / "node").glob("*.mjs"):
        shutil.copy(program, place)
    return place


def interpreter(environment: str) -> str:
    if environment == "serving":
        return sys.executable
    return str(ENVIRONMENTS / environment / "bin" / "python")


@dataclass(frozen=True)
class Outcome:
    """What a client has shown: versions by distribution, outcomes by feature."""

    versions: Mapping[str, str]
    results: Mapping[str, str]


class SiteProcess:
    """The service as clients see it, and the namespace that it shares with them."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self._process = process

    @cached_property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "site.json").read_text(encoding="utf-8"))
        return told

    @property
    def environment(self) -> dict[str, str]:
        """What is so for every program, whatever it asks."""
        names = ("PATH", "TMPDIR", "JAVA_HOME")
        return {
            **{name: os.environ[name] for name in names if name in os.environ},
            **OFFLINE,
            "PYTHONPATH": str(HERE),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
        }

    @property
    def address(self) -> dict[str, str]:
        """What the clients of the matrix need in their environment."""
        trust = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        return {"OPENAI_API_KEY": self.told["key"], **dict.fromkeys(trust, self.told["ca"])}

    def run(
        self,
        command: list[str],
        cwd: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A program beside the service, with these variables for where that is."""
        inside = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net"] if _isolated() else []
        return subprocess.run(
            [*inside, *command],
            cwd=cwd or self.folder,
            env={**self.environment, **(self.address if variables is None else variables)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def drive(self, client: Client, *, everywhere: bool) -> Outcome:
        number = CLIENTS.index(client)
        command = client.command(everywhere=everywhere)
        done = self.run([*command, str(self.folder / "site.json"), str(number)])
        assert done.returncode == 0, done.stderr
        # what failed has its traceback there, which pytest shows of a test that fails
        sys.stderr.write(done.stderr)
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def _isolated() -> bool:
    return os.geteuid() == 0


def _gateway(folder: Path) -> list[str]:
    """The arguments of clients_site.py for a gateway, whose configuration Ansible renders."""
    programs = ROOT / "tests/unit/plugins/gateway"
    worker_port = str(free_port())
    done = subprocess.run(
        [
            str(ROOT / ".venv/bin/python"),
            str(programs / "gateway_for_clients.py"),
            *(str(folder / "gateway"), worker_port),
        ],
        env={
            **os.environ,
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join((str(programs), str(ROOT / "tests/unit"))),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [str(folder / "gateway"), worker_port, done.stdout.strip()]


@contextlib.contextmanager
def served(folder: Path, *, gateway: bool = False) -> Iterator[SiteProcess]:
    """The service in a process, and in a namespace, of its own; behind a gateway if asked."""
    front = _gateway(folder) if gateway else []
    apart = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(apart if _isolated() else []),
                *(sys.executable, str(HERE / "clients_site.py"), str(folder), *front),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            return (folder / "site.json").exists()

        try:
            until(ready)
            yield SiteProcess(folder, process)
        finally:
            # it ends with its standard input
            process.communicate(timeout=SECONDS)
