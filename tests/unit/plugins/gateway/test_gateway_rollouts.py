# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad canaries lose their share on all gateways, whatever has ended by then."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from rollout_site import PROGRAMS, RolloutSite
from waiting import PATIENCE, until

from ansible_collections.onprem.deepseek.plugins.module_utils.rollout import machine, record_file
from ansible_collections.onprem.deepseek.plugins.module_utils.rollout.record import (
    Decision,
    Record,
    State,
)

BAD = {"m503": "503", "m500": "500", "hang": "hang", "cut": "cut", "flap": "flapping"}
# that only their workers' own metrics tell of
BAD |= {"slow": "slow", "broken": "broken"}
GOOD = ["sound", "wrong"]
KILLED = {
    "first": State.STEP,
    "second": State.STEP,
    "promoting": State.PROMOTING,
    "back": State.STEP,
}
OTHERS = ["alone", "kept", "twice", "away", "unordered"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutSite]:
    made = RolloutSite(tmp_path_factory.mktemp("ro"), [*BAD, *GOOD, *KILLED, *OTHERS])
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_every_bad_canary_is_rolled_back_on_all_gateways_and_refused_from_then_on(
    site: RolloutSite,
) -> None:
    for model, mode in BAD.items():
        site.workers[model][0].mode = mode
        site.begin(model)
        assert site.shares(model) == [500, 500]
    with site.load(list(BAD)):
        until(lambda: all(site.state(model) == "rolled_back" for model in BAD))
    for model in BAD:
        assert site.shares(model) == [0, 0]
        record = site.record(model)
        assert [item["digest"] for item in record["refused"]] == ["b" * 64]
        assert record["decisions"][-1]["reason"] == record["reason"] != ""
    assert "slow_first_tokens: " in site.record("slow")["reason"]
    assert "broken_generations: " in site.record("broken")["reason"]
    assert "canary_retry: true" in site.prepare("m503", status=1)["error"]
    assert site.prepare("m503", "--retry")["record"]["state"] == "prepared"


def test_a_sound_canary_may_be_promoted_and_one_client_with_bad_requests_does_not_hinder_it(
    site: RolloutSite,
) -> None:
    for model in GOOD:
        site.begin(model, steps="25,50")

    def ready(model: str) -> bool:
        return bool(site.tell("status", model)["records"][0]["ready"])

    with site.load(GOOD), site.load(["wrong"], threads=1, **{"X-Wrong": "yes"}) as bad:
        until(lambda: all(ready(model) for model in GOOD))
    assert bad["wrong 400"] > 0
    assert site.shares("sound") == [500, 500]
    kinds = [decision["kind"] for decision in site.record("sound")["decisions"]]
    assert [kind for kind in kinds if kind != "hold"] == ["good", "good"]
    assert site.tell("promote", "sound", "--by", "ops")["record"]["state"] == "promoting"
    done = site.tell("finish", "sound")["record"]
    assert (done["state"], done["stable"]["digest"]) == ("done", "b" * 64)
    assert site.shares("sound") == [0, 0]


def into(site: RolloutSite, model: str, state: State, step: int) -> None:
    """Write the record of a rollout that has come as far as that."""
    site.prepare(model, steps="25,50")

    def change(function: Callable[[Record], Record]) -> None:
        record_file.change(str(site.records), model, function)

    def settle(record: Record) -> Record:
        for name, share in record.gateways.items():
            record = machine.observe(record, name, share.wanted)
        good = Decision(time.time(), record.state, record.step, "good", "")
        return machine.decide(record, good)

    change(lambda record: settle(machine.start(record, time.time())))
    if step:
        change(lambda record: settle(machine.advance(record, time.time())))
    if state is State.PROMOTING:
        change(lambda record: machine.promote(record, time.time(), "ops"))
    change(lambda record: machine.take_over(record, time.time()))


def test_a_judge_that_is_killed_in_any_state_leaves_no_share_anywhere(site: RolloutSite) -> None:
    site.kill_judge()
    shares = {"first": 250, "second": 500, "promoting": 500, "back": 250}
    for model, state in KILLED.items():
        into(site, model, state, int(shares[model] == 500))
    site.start_judge()
    until(lambda: all(site.shares(model) == [share, share] for model, share in shares.items()))
    site.kill_judge()
    # ordered, and not yet carried out
    record_file.change(
        str(site.records), "back", lambda record: machine.roll_back(record, time.time(), "told to")
    )
    until(lambda: all(site.shares(model) == [0, 0] for model in KILLED))
    site.start_judge()
    until(lambda: all(site.state(model) == "rolled_back" for model in KILLED))
    assert "nothing was heard from the release host" in site.record("second")["reason"]
    assert all(site.shares(model) == [0, 0] for model in KILLED)


def test_a_watchdog_needs_no_judge_to_find_a_canary_bad(site: RolloutSite) -> None:
    site.begin("alone")
    site.kill_judge()
    try:
        site.workers["alone"][0].mode = "500"
        gateway = site.gateways["gateway-1"]
        with site.load(["alone"]):
            until(lambda: gateway.share("alone") == 0)
    finally:
        site.start_judge()
    until(lambda: site.state("alone") == "rolled_back")
    assert site.shares("alone") == [0, 0]


def test_a_share_outlives_the_start_of_haproxy_and_of_its_watchdog(site: RolloutSite) -> None:
    site.begin("kept")
    gateway = site.gateways["gateway-1"]
    for name, start in (("haproxy", gateway.start_haproxy), ("watchdog", gateway.start_watchdog)):
        gateway.stop(name)
        start()
        assert gateway.share("kept") == 500
    assert site.state("kept") == "step"
    site.tell("abort", "kept")


def test_whatever_is_asked_twice_or_at_once_is_done_once(site: RolloutSite) -> None:
    assert site.tell("abort", "twice")["changed"] is False
    assert site.prepare("twice")["changed"] is True
    assert site.prepare("twice")["changed"] is False
    command = site.program("rollout", "--settings", str(site.settings), "start", "twice")
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    said = [json.loads(start.communicate(timeout=PATIENCE)[0]) for start in starts]
    assert len({item["record"]["fencing"] for item in said}) == 1
    assert site.shares("twice") == [500, 500]
    assert "promote or roll back" in site.prepare("twice", steps="10", status=1)["error"]
    first, second = site.tell("abort", "twice"), site.tell("abort", "twice")
    assert (first["changed"], second["changed"]) == (True, False)
    assert second["record"]["state"] == "rolled_back"


def test_a_share_that_one_gateway_does_not_take_is_taken_from_all(site: RolloutSite) -> None:
    site.prepare("away")
    gateway = site.gateways["gateway-2"]
    gateway.stop("haproxy")
    error = site.tell("start", "away", "--wait", "1", status=1)["error"]
    assert "gateway-2" in error
    until(lambda: site.state("away") == "rolling_back")
    until(lambda: site.gateways["gateway-1"].share("away") == 0)
    gateway.start_haproxy()
    until(lambda: site.state("away") == "rolled_back")
    assert site.shares("away") == [0, 0]


def test_a_share_that_nobody_ordered_is_taken_away(site: RolloutSite) -> None:
    gateway = site.gateways["gateway-1"]
    gateway.ask(f"add map {gateway.directory}/shares.map unordered 300")
    until(lambda: gateway.share("unordered") == 0)


@pytest.mark.parametrize("certificate", ["worker", "client"])
def test_nobody_but_the_release_host_gives_orders(site: RolloutSite, certificate: str) -> None:
    context = ssl.create_default_context(cafile=str(site.pki / "ca.pem"))
    context.load_cert_chain(site.pki / f"{certificate}.pem")
    port = site.gateways["gateway-1"].orders
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context)
    order = {"model": "unordered", "fencing": 9, "share": 500, "seconds": 9}
    connection.request("POST", "/rollout", json.dumps(order))
    assert connection.getresponse().status == 403
    connection.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_say_what_is_wrong_with_their_settings(site: RolloutSite, name: str) -> None:
    given = ["--settings", "/nowhere", "status"] if name == "rollout" else ["/nowhere"]
    done = subprocess.run(
        site.program(name, *given), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == (1 if name == "rollout" else 78)
    assert done.stderr.strip() == "[Errno 2] No such file or directory: '/nowhere'"
