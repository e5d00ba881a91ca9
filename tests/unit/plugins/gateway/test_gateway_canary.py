# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which share of the requests a canary gets, whatever happens to it and to the gateway."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gateway_process import Client, Gateway
from waiting import until

from ansible_collections.onprem.deepseek.plugins.module_utils.gateway import shares
from ansible_collections.onprem.deepseek.plugins.module_utils.gateway.handover import keep_states
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.measures import MeasureError
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.worker_readings import through

MODELS = pytest.mark.parametrize("gateway", ["models"], indirect=True)
CANARY, STABLE = {"c", "f"}, {"a", "b"}
TINY = b'{"model": "tiny"}'
# How many standard deviations 99.99 % of a normal distribution lie within.
DEVIATIONS = 3.891


def paths(gateway: Gateway) -> tuple[str, str]:
    return str(gateway.directory / "admin.sock"), str(gateway.directory / "shares.map")


def set_share(gateway: Gateway, thousandths: int) -> None:
    shares.set_share(*paths(gateway), "tiny", thousandths)


def share(gateway: Gateway) -> int:
    return shares.shares_of(*paths(gateway)).get("tiny", 0)


def load(
    gateway: Gateway, requests: int, clients: int = 8, *headers: tuple[str, str], **options: Any
) -> Counter[str]:
    """Who answered; each client has one connection, and asks one request after the other."""

    def ask(number: int) -> Counter[str]:
        answered: Counter[str] = Counter()
        with contextlib.closing(Client(gateway, **options)) as client:
            for _request in range(number, requests, clients):
                reply = client.ask("/v1/chat/completions", *headers, body=TINY)
                assert reply.status == 200, reply.raw
                answered[json.loads(reply.body)["worker"]] += 1
        return answered

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(ask, range(clients)), Counter())


def of(answered: Counter[str], workers: set[str]) -> int:
    return sum(answered[name] for name in workers)


def assert_is_share(answered: Counter[str], thousandths: int) -> None:
    requests, share = answered.total(), thousandths / 1000
    most = DEVIATIONS * math.sqrt(requests * share * (1 - share)) + 0.5
    assert abs(of(answered, CANARY) - requests * share) <= most, answered
    assert of(answered, CANARY | STABLE) == requests


def order(gateway: Gateway, name: str, state: str) -> None:
    said = gateway.command(f"set server model:tiny/inference-1:{name} state {state}")
    assert said.strip() == ""


def stat(gateway: Gateway, name: str) -> dict[str, str]:
    text = gateway.command("show stat").removeprefix("# ")
    rows = csv.DictReader(text.splitlines())
    wanted = {"pxname": "model:tiny", "svname": f"inference-1:{name}"}
    return next(row for row in rows if wanted.items() <= row.items())


def next_generation(gateway: Gateway, *options: str) -> None:
    first = gateway.process
    gateway.start(*options)
    until(lambda: f"Pid: {gateway.process.pid}\n" in gateway.command("show info"))
    first.send_signal(signal.SIGUSR1)
    first.wait()


@MODELS
def test_a_canary_gets_its_share_however_many_requests_are_under_way(gateway: Gateway) -> None:
    for thousandths in (50, 250, 500):
        set_share(gateway, thousandths)
        for clients in (1, 4, 32):
            assert_is_share(load(gateway, 320, clients), thousandths)


@MODELS
def test_without_a_share_it_gets_nothing(gateway: Gateway) -> None:
    set_share(gateway, 500)
    set_share(gateway, 0)
    assert of(load(gateway, 2000, 32), CANARY) == 0


@MODELS
@pytest.mark.parametrize("state", ["drain", "maint", "down", "refusing", "draining"])
def test_a_canary_that_is_away_costs_no_client_an_error(gateway: Gateway, state: str) -> None:
    """The other one takes its part, and the stable workers that of both."""
    set_share(gateway, 500)

    def away(place: int, name: str) -> None:
        if state in ("drain", "maint"):
            order(gateway, name, state)
        elif state == "down":
            gateway.workers[place].ready = False
            until(lambda: stat(gateway, name)["status"].startswith("DOWN"))
        elif state == "refusing":
            gateway.command(f"set server model:tiny/inference-1:{name} addr 127.0.0.1 port 1")
            gateway.command(f"disable health model:tiny/inference-1:{name}")
        else:
            gateway.workers[place].mode = "draining"

    passed_over = state in ("drain", "maint", "down")
    away(2, "c")
    answered = load(gateway, 160)
    assert answered["c"] == 0
    if passed_over:
        assert_is_share(answered, 500)
    away(5, "f")
    assert of(load(gateway, 160), STABLE) == 160
    if not passed_over:
        # counted on the first attempt: a refused connection as wredis alone, 425 as wretr as well
        for counted in (stat(gateway, name) for name in CANARY):
            assert int(counted["stot"]) >= int(counted["wredis"]) > 0
            assert int(counted["wretr"]) == (0 if state == "refusing" else int(counted["wredis"]))
        counted = stat(gateway, "c")
        assert counted["stot"] == counted["wredis"]


@MODELS
def test_while_it_has_a_share_it_takes_what_no_other_can(gateway: Gateway) -> None:
    for name in STABLE:
        order(gateway, name, "drain")
    set_share(gateway, 50)
    assert of(load(gateway, 80), CANARY) == 80
    set_share(gateway, 0)
    with contextlib.closing(Client(gateway)) as client:
        assert client.ask("/v1/chat/completions", body=TINY).error_code == "no_worker_ready"


@MODELS
def test_failures_of_a_canary_are_counted_at_its_server(gateway: Gateway) -> None:
    set_share(gateway, 500)
    gateway.workers[2].mode = "failing"
    order(gateway, "f", "drain")
    with contextlib.closing(Client(gateway)) as client:
        statuses = Counter(
            client.ask("/v1/chat/completions", body=TINY).status for _again in range(40)
        )
    counted = stat(gateway, "c")
    assert int(counted["hrsp_5xx"]) == statuses[500] > 0
    assert int(counted["stot"]) == statuses[500]
    assert statuses.keys() == {200, 500}


@MODELS
def test_the_metrics_of_each_worker_beside_a_canary_are_read_by_its_name(gateway: Gateway) -> None:
    socket = gateway.directory / "measures.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    fetch = through(str(socket))
    places = {"a": 0, "b": 1, "c": 2, "f": 5}
    for name, place in places.items():
        assert json.loads(fetch(f"inference-1:{name}"))["worker"] == gateway.workers[place].name
        assert gateway.workers[place].taken[-1] == ("GET", "/metrics")
    taken = [list(worker.taken) for worker in gateway.workers]
    # one of a model without a canary, one that is not there, and no name at all
    for name in ("inference-1:d", "inference-1:none", ""):
        with pytest.raises(MeasureError, match="404"):
            fetch(name)
    assert taken == [worker.taken for worker in gateway.workers]


@MODELS
def test_the_line_says_what_went_to_the_canary(gateway: Gateway) -> None:
    set_share(gateway, 500)
    found = set()
    for _again in range(40):
        reply = gateway.ask(body=TINY)
        line = gateway.logged(reply.headers["x-request-id"])
        found.add((line["canary"], line["server"][-1] in CANARY, line["model"]))
    assert found == {(True, True, "tiny"), (False, False, "tiny")}


@MODELS
def test_a_share_stays_through_handover_and_restart(gateway: Gateway) -> None:
    set_share(gateway, 250)
    keep_states(paths(gateway)[0], gateway.directory / "servers")
    next_generation(gateway, "-x", paths(gateway)[0])
    assert share(gateway) == 250
    assert_is_share(load(gateway, 160), 250)
    gateway.process.kill()
    gateway.process.wait()
    gateway.start()
    assert share(gateway) == 250
    set_share(gateway, 0)
    gateway.process.kill()
    gateway.process.wait()
    gateway.start()
    assert share(gateway) == 0
    assert of(load(gateway, 80), CANARY) == 0


@MODELS
def test_a_generation_that_ends_has_no_canary(gateway: Gateway) -> None:
    """Nobody can tell it that the share is another one."""
    set_share(gateway, 500)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(Client(gateway))) for _new in range(24)]
        first = gateway.process
        gateway.start("-x", paths(gateway)[0])
        until(lambda: f"Pid: {gateway.process.pid}\n" in gateway.command("show info"))
        first.send_signal(signal.SIGUSR1)
        until(lambda: gateway.notice("Proxy service stopped") != "")
        set_share(gateway, 0)
        answers = [json.loads(client.ask(body=TINY).body)["worker"] for client in clients]
    assert set(answers) <= STABLE
    first.wait()


@pytest.mark.parametrize("gateway", ["sticky"], indirect=True)
def test_with_a_draw_by_key_all_of_a_key_go_to_one_release(gateway: Gateway) -> None:
    set_share(gateway, 500)

    def side(*headers: tuple[str, str], **options: Any) -> set[bool]:
        answered = load(gateway, 6, 1, *headers, **options)
        return {name in CANARY for name in answered}

    keys = [("Authorization", f"Bearer sk-{number}") for number in range(40)]
    sides = [side(key) for key in keys]
    assert all(len(one) == 1 for one in sides)
    assert {True, False} == set.union(*sides)
    assert [side(key) for key in keys[:10]] == sides[:10]


@pytest.mark.parametrize("gateway", ["listed"], indirect=True)
def test_testers_alone_choose_by_header(gateway: Gateway) -> None:
    tester, other = {"certificate": "worker.pem"}, {"certificate": "hostile.pem"}
    always, never = ("X-DeepSeek-Canary", "always"), ("X-DeepSeek-Canary", "never")
    assert of(load(gateway, 20, 1, always, **tester), CANARY) == 20
    assert of(load(gateway, 20, 1, always, **other), CANARY) == 0
    assert of(load(gateway, 20, 1, always), CANARY) == 0
    set_share(gateway, 500)
    assert of(load(gateway, 40, 1, never, **tester), CANARY) == 0
    assert of(load(gateway, 40, 1, never), CANARY) > 0
    assert not any(
        b"x-deepseek-canary" in head.lower() for one in gateway.workers for head in one.heads
    )


def program(gateway: Gateway, *arguments: str) -> list[str]:
    control, path = paths(gateway)
    return ["deepseek-gateway-share", "--socket", control, "--map", path, *arguments]


@MODELS
def test_the_program_says_what_haproxy_has(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", program(gateway, *arguments))
        status = shares.main()
        said = capsys.readouterr()
        return status, said.out, said.err

    assert run("get") == (0, "{}\n", "")
    assert run("set", "tiny", "50") == (0, '{"tiny": 50}\n', "")
    file = Path(paths(gateway)[1])
    # of what HAProxy has, not of the file
    file.write_text("tiny 10\n")
    assert run("get")[1] == '{"tiny": 50}\n'
    assert run("set", "tiny", "0") == (0, '{"tiny": 0}\n', "")
    assert "tiny 0\n" in file.read_text()
    for wrong, why in (
        (("code", "50"), "no canary for the model code"),
        (("nothing", "50"), "no canary for the model nothing"),
        (("tiny", "501"), "0 to 500"),
        (("tiny", "-1"), "0 to 500"),
    ):
        status, _said, error = run("set", "--", *wrong)
        assert status == 1
        assert why in error
    assert run("get")[1] == '{"tiny": 0}\n'


@MODELS
def test_a_share_that_cannot_be_written_is_not_raised_and_is_lowered(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_share(gateway, 100)

    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shares, "write", full)
    for wanted, stays in ((250, 100), (0, 0)):
        with pytest.raises(OSError, match="No space left"):
            set_share(gateway, wanted)
        assert share(gateway) == stays


@MODELS
def test_without_haproxy_the_next_start_has_no_share(gateway: Gateway) -> None:
    set_share(gateway, 100)
    gateway.process.kill()
    gateway.process.wait()
    for wanted in (250, 0):
        with pytest.raises(shares.HaproxyError):
            set_share(gateway, wanted)
        expected = 0 if wanted == 0 else 100
        assert shares.written_in(paths(gateway)[1]) == {"tiny": expected}
    gateway.start()
    assert share(gateway) == 0


@MODELS
@pytest.mark.parametrize("answers", ["", "0x1 tiny 7", "0x1 tiny many"])
def test_a_share_that_is_read_back_as_another_is_a_failure(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    really: Callable[..., str] = shares.ask
    orders = []

    def lying(control: str, command: str) -> str:
        if command.startswith(("set map", "add map")):
            orders.append(command)
        if command.startswith("show map") and orders:
            return answers
        return really(control, command)

    monkeypatch.setattr(shares, "ask", lying)
    with pytest.raises(shares.ShareError):
        set_share(gateway, 50)
    assert shares.written_in(paths(gateway)[1]) == {}
