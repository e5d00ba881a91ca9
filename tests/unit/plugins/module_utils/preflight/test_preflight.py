# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight says of hosts and of the network between them, in a table and as a page."""

from __future__ import annotations

import copy
import dataclasses
import html.parser
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.filter.preflight_report import preflight_report
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.requirements import DEFAULTS
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import report as preflight
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.check import OK, SKIPPED
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.hosts import refusal_checks
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.pairs import pairs
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import (
    Check,
    Host,
    Network,
    checks,
    lines,
    table,
)

ROOT = Path(__file__).resolve().parents[5]
GROUPS = {
    "gateway": ["gateway-1"],
    "inference": ["inference-1"],
    "storage": ["storage-1", "storage-2", "storage-3"],
    "release": ["inference-1"],
}
ADDRESSES = {
    "gateway-1": {"management": "10.0.1.1", "service": "10.0.2.1", "inference": "10.0.3.1"},
    "inference-1": {"management": "10.0.1.2", "inference": "10.0.3.2", "storage": "10.0.4.2"},
    "storage-1": {"management": "10.0.1.3", "storage": "10.0.4.3"},
    "storage-2": {"management": "10.0.1.4", "storage": "10.0.4.4"},
    "storage-3": {"management": "10.0.1.5", "storage": "10.0.4.5"},
}
SITE = {
    "deepseek_service_name": "deepseek.example.org",
    "deepseek_model_name": "r1",
    "deepseek_model_version": "1.0.0",
    "deepseek_checkpoint": "/srv/import/r1",
    "deepseek_config_dir": "/etc/deepseek",
    "deepseek_tls_dir": "/etc/deepseek/tls",
    "deepseek_release_public_key_file": "/etc/deepseek/release.pub",
    "deepseek_pkcs11_module": "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "deepseek_store_dir": "/srv/deepseek/store",
    "deepseek_store_sources": ["https://10.0.4.3:8443"],
    "deepseek_venv_dir": "/opt/deepseek/serving",
    "deepseek_storage_port": 8443,
    "deepseek_inference_port": 8000,
    "deepseek_gateway_port": 443,
}
PAIRS = pairs(GROUPS)


def measured(name: str, zone: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "zone": zone,
        "source": "10.0.0.1",
        "address": "10.0.0.2",
        "port": 8442,
        "mtu": 9000,
        "problem": "",
        "blocked": "",
        "sent": 50,
        "lost": 0,
        "rtt_ms": {"min": 0.1, "median": 0.2, "p99": 1.5, "max": 2.0},
        "path_mtu": 9000,
        "bandwidth_mbps": {"to": 9400.0, "from": 9410.5},
        **changes,
    }


def info(name: str) -> dict[str, Any]:
    return {
        "nics": {
            zone: {
                "address": address,
                "interface": f"eno{place}",
                "mtu": 9000,
                "speed_mbps": 10000,
                "unknown": "",
            }
            for place, (zone, address) in enumerate(ADDRESSES[name].items())
        },
        "clock": {
            "service": "chronyd",
            "max_error_ms": 20.5,
            "synchronised": True,
            "offset_seconds": -0.2,
        },
        "disk": {
            "path": "/srv",
            "size": 2 * 10**12,
            "free": 10**12,
            "read_mb_s": 2500.0,
            "read_from": "/dev/nvme0n1",
            "unknown": "",
        },
        "gpu": {"pci": ["0000:3b:00.0"], "driver": "580.1", "venv": True},
    }


def host(name: str, /, **changes: Any) -> Host:
    """A host on which nothing is wrong, but for the changes."""
    right = Host(
        name=name,
        addresses=ADDRESSES[name],
        variables={**SITE, "deepseek_zone_addresses": ADDRESSES[name]},
        facts={
            "distribution": "Debian",
            "distribution_major_version": "12",
            "architecture": "x86_64",
            "service_mgr": "systemd",
            "all_ipv4_addresses": list(ADDRESSES[name].values()),
            "all_ipv6_addresses": [],
            "processor_vcpus": 64,
            "memtotal_mb": 515000,
        },
        info=info(name),
        needed=10**9,
        probes=[measured(pair.server, pair.zone) for pair in PAIRS if pair.client == name],
        transfers=[measured(pair.server, pair.zone) for pair in PAIRS if pair.client == name],
    )
    return dataclasses.replace(right, **changes)


def judged(*changed: Host, network: Network | None = None) -> list[Check]:
    by_name = {one.name: one for one in changed}
    hosts = [by_name.get(name) or host(name) for name in ADDRESSES]
    return checks(GROUPS, hosts, network or Network("full", 8442, 30))


def wrong(*changed: Host, network: Network | None = None) -> list[str]:
    """What failed, in one line each."""
    return [
        f"{check.host} {check.name}: {check.found} | {check.expected} | {check.remedy}"
        for check in judged(*changed, network=network)
        if check.status == preflight.FAILED
    ]


def everywhere(**variables: Any) -> list[Host]:
    return [host(n, variables={**host(n).variables, **variables}) for n in ADDRESSES]


def with_info(name: str, part: str, **changes: Any) -> Host:
    changed = copy.deepcopy(info(name))
    changed[part].update(changes)
    return host(name, info=changed)


def test_a_site_without_faults_passes_everything() -> None:
    assert {check.status for check in judged()} == {OK}


SOFTHSM = {"deepseek_pkcs11_module": "/usr/lib/softhsm/libsofthsm2.so"}
EXPOSED = {
    "plain_pins": ["root"],
    "root_here": True,
    "authority": True,
    "tpm2": False,
    "encrypted": None,
}


def test_keys_that_can_be_copied_are_refused_until_the_site_accepts_it() -> None:
    exposed = [
        dataclasses.replace(one, custody=EXPOSED) if one.name == "inference-1" else one
        for one in everywhere(**SOFTHSM)
    ]
    found = [line.split(" | ")[0] for line in wrong(*exposed)]
    assert found == [
        "gateway-1 software_tokens: /usr/lib/softhsm/libsofthsm2.so",
        "inference-1 software_tokens: /usr/lib/softhsm/libsofthsm2.so",
        "inference-1 plain_pins: of root",
        "inference-1 root_online: it is here",
        "inference-1 unencrypted_disk: that cannot be seen",
    ]
    assert all("deepseek_accepted_key_risks" in line for line in wrong(*exposed))
    risks = ["software_tokens", "plain_pins", "root_online", "unencrypted_disk"]
    accepted = [
        dataclasses.replace(one, variables={**one.variables, "deepseek_accepted_key_risks": risks})
        for one in exposed
    ]
    assert wrong(*accepted) == []
    skipped = [check.name for check in judged(*accepted) if check.status == SKIPPED]
    assert skipped == ["software_tokens", *risks]


def test_a_risk_that_there_is_not_cannot_be_accepted() -> None:
    (line,) = wrong(*everywhere(deepseek_accepted_key_risks=["root_onlin"]))
    assert "deepseek_accepted_key_risks" in line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"facts": None, "error": "No route to host"},
            "storage-1 reachable: it cannot be used: No route to host | SSH, Python 3, and sudo",
        ),
        ({"info": None, "info_error": "no Python"}, "storage-1 host_info: no Python"),
        ({"needed": 10**13}, "storage-1 disk_free: 1000000000000 bytes free for the store | at le"),
        (
            {
                "refusals": [
                    {"role": "tls", "task": "Any", "says": ["storage-1: no key. Bring it."]}
                ]
            },
            "storage-1 tls: no key |  | Bring it",
        ),
        (
            {"checkpoint": [{"file": "a.bin", "problem": "it is a pickle", "remedy": "remove it"}]},
            (
                "storage-1 checkpoint: a.bin: it is a pickle | "
                "what can be published, in /srv/import/r1 | Remove it"
            ),
        ),
    ],
)
def test_hosts(changes: dict[str, Any], says: str) -> None:
    (only,) = wrong(host("storage-1", **changes))
    assert only.startswith(says)


def test_what_of_a_checkpoint_is_left_to_the_publish_is_said() -> None:
    """Unless it is refused already."""
    bad = {"file": "a.bin", "problem": "it is a pickle", "remedy": "remove it"}
    for problems, expected in (([], ["deferred"]), ([bad], ["failed"])):
        found = judged(host("storage-1", checkpoint=problems, checkpoint_unread=True))
        assert [one.status for one in found if one.name == "checkpoint"] == expected
    assert not [one for one in judged(host("storage-1")) if one.name == "checkpoint"]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"distribution": "Ubuntu"}, "system: Ubuntu 12 | Debian 12 or 13 | Reinstall"),
        ({"distribution_major_version": "11"}, "system: Debian 11"),
        ({"architecture": "aarch64"}, "architecture: aarch64 | x86_64"),
        ({"service_mgr": "openrc"}, "init: openrc | systemd"),
        ({"processor_vcpus": 8}, "cpus: 8 | at least 16 | Use a host with more"),
        ({"processor_vcpus": None}, "cpus: unknown | at least 16"),
        (
            {"memtotal_mb": 257000},
            "memory_gb: 269.5 GB | at least 512 GB | Add memory, or set deep",
        ),
    ],
)
def test_facts(facts: dict[str, Any], says: str) -> None:
    (only,) = wrong(host("inference-1", facts={**(host("inference-1").facts or {}), **facts}))
    assert only.startswith(f"inference-1 {says}")


@pytest.mark.parametrize(
    ("part", "changes", "says"),
    [
        ("clock", {"offset_seconds": 61.0}, "clock: it is 61 s ahead of the controller's | within"),
        ("clock", {"offset_seconds": -3600.0}, "clock: it is 3600 s behind the controller's"),
        (
            "clock",
            {"service": "", "synchronised": False},
            "clock_synchronised: no time service runs | a time service that is",
        ),
        (
            "clock",
            {"synchronised": False},
            "clock_synchronised: chronyd runs and has not set the clock",
        ),
        ("disk", {"size": 10**11}, "disk_gb: 100 GB (/srv) | at least 1000 GB (/srv)"),
        ("disk", {"read_mb_s": 450.0}, "disk_read_mb_s: 450 MB/s (/dev/nvme0n1) | at least 500"),
        (
            "disk",
            {"read_mb_s": None, "read_from": "", "unknown": "/srv is on no block device"},
            "disk_read_mb_s: unknown: /srv is on no block device | at least 500 MB/s",
        ),
        ("disk", {"read_mb_s": None}, "disk_read_mb_s: unknown: it was not measured"),
    ],
)
def test_what_the_host_has(part: str, changes: dict[str, Any], says: str) -> None:
    (only,) = wrong(with_info("storage-1", part, **changes))
    assert only.startswith(f"storage-1 {says}")


def test_a_device_that_is_not_there() -> None:
    nothing = {"size": None, "free": None, "read_mb_s": None, "unknown": "/dev/x: No such file"}
    found = wrong(with_info("storage-1", "disk", **nothing))
    assert [line.split(" | ")[0] for line in found] == [
        "storage-1 disk_gb: unknown: /dev/x: No such file",
        "storage-1 disk_read_mb_s: unknown: /dev/x: No such file",
    ]


def test_nics_below_the_minimum_and_those_that_do_not_say_it() -> None:
    nic = info("inference-1")["nics"]
    slow = {**nic["storage"], "speed_mbps": 1000}
    mute = {**nic["inference"], "speed_mbps": None, "unknown": "eno1 is a virtual NIC"}
    found = wrong(with_info("inference-1", "nics", storage=slow, inference=mute))
    assert [line.split(" | ")[0] for line in found] == [
        "inference-1 nic_mbps: unknown: eno1 is a virtual NIC",
        "inference-1 nic_mbps: 1000 Mb/s (eno2, storage)",
    ]
    hosts = everywhere(deepseek_minimums={"nic_mbps": None})
    mended = [dataclasses.replace(one, info=info(one.name)) for one in hosts]
    assert wrong(*mended) == []


def test_an_address_that_the_host_does_not_have() -> None:
    """Its pairs cannot be measured, which is no second failure."""
    lost = dataclasses.replace(
        with_info("storage-1", "nics", storage=None), probes=[], transfers=[]
    )
    others = [
        host(n, probes=[p for p in host(n).probes if p["name"] != "storage-1"])
        for n in ("inference-1", "storage-2", "storage-3")
    ]
    (only,) = wrong(lost, *others)
    assert only.startswith("storage-1 address: it has no address 10.0.4.3 (storage), only 10.0.1.3")
    deferred = [one for one in judged(lost, *others) if one.status == preflight.DEFERRED]
    assert len(deferred) == 3
    assert {one.found for one in deferred} == {
        "not measured: storage-1 has no address in zone storage"
    }


def test_one_mtu_that_is_not_that_of_the_zone() -> None:
    nic = {**info("storage-2")["nics"]["storage"], "mtu": 1500}
    (only,) = wrong(with_info("storage-2", "nics", storage=nic))
    assert only.startswith(
        "storage-2 mtu: 1500 (eno1, storage) | 9000 as in the rest of the zone |"
    )


def test_an_mtu_below_the_minimum() -> None:
    hosts = everywhere(deepseek_minimums={"mtu": 9216})
    assert len(wrong(*hosts)) == sum(len(zones) for zones in ADDRESSES.values())
    assert wrong(*everywhere(deepseek_minimums={"mtu": None})) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"blocked": "tcp", "problem": "no answer within 2 s"},
            "port: TCP 10.0.0.1 -> 10.0.0.2 port 8442 (inference): no answer within 2 s | an answ",
        ),
        ({"blocked": "udp", "problem": "none"}, "port: UDP 10.0.0.1 -> 10.0.0.2 port 8442"),
        (
            {"problem": "not measured: time is over"},
            "network: 10.0.0.1 -> 10.0.0.2 (inference): not",
        ),
        (
            {"rtt_ms": {"min": 0.5, "median": 1.0, "p99": 9.0, "max": 9.0}},
            "rtt_ms: median 1.0 ms, min 0.5, p99 9.0 (inference) | median below 1 ms",
        ),
        ({"lost": 1}, "loss_percent: 1 of 50 datagrams lost (inference) | at most 0 %"),
        ({"path_mtu": 1500}, "path_mtu: 1500 (inference) | 9000, the MTU of the NIC"),
        ({"path_mtu": None}, "path_mtu: none (inference) | 9000"),
    ],
)
def test_pairs(changes: dict[str, Any], says: str) -> None:
    probes = [measured("inference-1", "inference", **changes)]
    (only,) = wrong(host("gateway-1", probes=probes))
    assert only.startswith(f"gateway-1 -> inference-1 {says}")


def test_bandwidth_is_judged_by_the_slower_direction() -> None:
    slow = [measured("inference-1", "inference", bandwidth_mbps={"to": 9400.0, "from": 940.0})]
    (only,) = wrong(host("gateway-1", transfers=slow))
    assert only.startswith(
        "gateway-1 -> inference-1 bandwidth_mbps: 9400 Mb/s there, 940 Mb/s back (inference) | "
        "at least 8000 Mb/s (inference) | Look at NIC speed"
    )
    failed = [measured("inference-1", "inference", problem="the connection was reset")]
    assert len(wrong(host("gateway-1", transfers=failed))) == 1


def test_a_transfer_without_a_turn_is_said() -> None:
    hosts = [host(name, transfers=[]) for name in ADDRESSES]
    found = judged(*hosts, network=Network("full", 8442, 1))
    late = [one.found for one in found if one.status == preflight.DEFERRED]
    assert len(late) == len(PAIRS)
    assert "not measured: its turn is 2, and preflight_network_turns is 1" in late
    assert "not measured: the transfer gave no result" in late


def test_without_full_no_bandwidth_and_with_off_nothing() -> None:
    hosts = [host(name, transfers=[]) for name in ADDRESSES]
    names = {one.name for one in judged(*hosts, network=Network("latency"))}
    assert "rtt_ms" in names
    assert "bandwidth_mbps" not in names
    (only,) = [one for one in judged(*hosts, network=Network("off")) if one.name == "network"]
    assert only.status == SKIPPED


def test_a_port_that_is_taken_is_said_once() -> None:
    taken = host("inference-1", listen={"10.0.0.2": "another process has this port"})
    refused = measured("inference-1", "inference", blocked="tcp", problem="closed")
    (only,) = wrong(taken, host("gateway-1", probes=[refused]))
    assert only.startswith(
        "inference-1 port: it cannot listen on 10.0.0.2 port 8442: another process"
    )


def test_a_host_that_was_not_asked_is_no_failure_of_its_own() -> None:
    """What the inventory lacks is said by its own checks."""
    bare = host("gateway-1", addresses={}, asked=False, facts=None, info=None, probes=[])
    lines_ = wrong(bare)
    assert all(" addresses: it has no address in the" in line for line in lines_)
    assert len(lines_) == 3


# GPUs


def gpu_site(**changes: Any) -> list[Host]:
    variables = {
        "deepseek_engine_flavour": "tensorrt",
        "deepseek_precision": "fp16",
        "deepseek_precisions": [{"name": "fp16"}],
    }
    extra = {k: v for k, v in changes.items() if k.startswith("deepseek_")}
    hosts = everywhere(**variables, **extra)
    own = {k: v for k, v in changes.items() if not k.startswith("deepseek_")}
    return [dataclasses.replace(one, **own) if one.name == "inference-1" else one for one in hosts]


def gpu_checks(**changes: Any) -> list[Check]:
    return [one for one in judged(*gpu_site(**changes)) if one.name.startswith("gpu")]


def seen(**gpu: Any) -> dict[str, Any]:
    changed = info("inference-1")
    changed["gpu"].update(gpu)
    return changed


def test_gpu_checks_are_taken_over() -> None:
    one = {"subject": "host", "name": "nvml", "ok": True, "detail": "It answers.", "remedy": ""}
    bad = {
        "subject": "GPU 0",
        "name": "ecc",
        "ok": False,
        "detail": "ECC is off.",
        "remedy": "Turn it on.",
    }
    assert gpu_checks(gpus=[one, bad]) == [
        Check("inference-1", "gpu_nvml", "ok", "It answers"),
        Check("inference-1", "gpu_ecc", "failed", "GPU 0: ECC is off", "", "Turn it on"),
    ]


@pytest.mark.parametrize(
    ("gpu", "manage", "status", "says"),
    [
        ({"pci": []}, True, "failed", "no NVIDIA GPU on the PCI bus"),
        ({"driver": None}, False, "failed", "no NVIDIA driver is loaded"),
        ({"driver": None}, True, "deferred", "once the rollout has installed the driver"),
        (
            {"venv": False},
            False,
            "deferred",
            "once role serving_environment has installed nvidia-ml-py",
        ),
    ],
)
def test_gpus_that_cannot_be_judged(
    gpu: dict[str, Any], manage: bool, status: str, says: str
) -> None:
    (only,) = gpu_checks(info=seen(**gpu), deepseek_manage_gpu_driver=manage)
    assert (only.host, only.status) == ("inference-1", status)
    assert says in only.found


def test_a_site_without_gpus_says_nothing_of_them() -> None:
    assert not [one for one in judged() if one.name.startswith("gpu")]


# The report


def as_mappings(*changed: Host) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in changed}
    return [dataclasses.asdict(by_name.get(name) or host(name)) for name in ADDRESSES]


def test_report_of_a_site_without_faults() -> None:
    report = preflight_report(as_mappings(), GROUPS, {"mode": "full", "port": 1, "turns": 9}, "now")
    assert (report["ok"], report["failed"], report["at"]) == (True, 0, "now")
    assert report["lines"] == ["5 hosts and the inventory are as they must be."]
    assert report["minimums"] == DEFAULTS
    assert report["network"] == {"mode": "full", "port": 1, "turns": 9}


def test_everything_is_reported_at_once() -> None:
    report = preflight_report(
        as_mappings(
            host("gateway-1", facts=None, error="no sudo", probes=[]),
            with_info("storage-1", "clock", offset_seconds=100.0),
            host("storage-2", variables={**SITE, "deepseek_x": 1}),
        ),
        {**GROUPS, "storage": ["storage-1", "storage-2"]},
    )
    assert (report["ok"], report["failed"]) == (False, 4)
    head, columns, *rows = report["lines"]
    assert head == "4 things to put right; nothing was changed."
    assert columns.split() == ["HOST", "CHECK", "FOUND", "EXPECTED", "REMEDY"]
    assert [row.split()[0] for row in rows[:4]] == ["group", "deepseek_x", "gateway-1", "storage-1"]
    assert rows[4] == "Not judged yet:"
    assert rows[5] == "gateway-1 -> inference-1, network: not measured: gateway-1 was not reached"


def test_one_thing_is_one_thing() -> None:
    assert lines([Check("a", "b", "failed", "c")], 1)[0].startswith("1 thing to put right")


def test_a_host_that_is_not_described_as_expected() -> None:
    with pytest.raises(AnsibleFilterError, match="not described as expected"):
        preflight_report([{"colour": "red"}], GROUPS)
    with pytest.raises(AnsibleFilterError, match="not described as expected"):
        preflight_report([], GROUPS, {"speed": 1})


text = st.text()


@given(cells=st.lists(st.tuples(text, text, text, text, text)))
def test_a_table_has_one_line_for_each_check(cells: list[tuple[str, ...]]) -> None:
    rows = [Check(host, name, "failed", *rest) for host, name, *rest in cells]
    found = table(rows)
    assert len(found) == (len(rows) + 1 if rows else 0)
    assert all(line == line.rstrip() and "\n" not in line for line in found)


def test_columns_are_below_each_other() -> None:
    first, second, third = table(
        [Check("a", "b", "failed", "c", "d", "e f"), Check("long-name", "x", "failed", "y" * 70)]
    )
    assert first.index("CHECK") == second.index("b") == third.index("x")
    assert first.index("EXPECTED") == second.index("d")
    assert third.endswith("  -")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(addresses=anything, minimums=anything)
def test_whatever_the_inventory_says_is_answered(addresses: Any, minimums: Any) -> None:
    hosts = everywhere(deepseek_minimums=minimums)
    hosts[0] = dataclasses.replace(hosts[0], addresses=addresses)
    assert all(check.found for check in judged(*hosts))


# The page


class Page(html.parser.HTMLParser):
    """The text of the page, and what it would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetches: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetches += [one for one in attrs if one[0] in ("src", "href", "onload", "onerror")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


# As in Ansible nothing is escaped unless the template does it.
TEMPLATE = jinja2.Environment(
    autoescape=jinja2.select_autoescape(default_for_string=False), undefined=jinja2.StrictUndefined
).from_string((ROOT / "roles/preflight/templates/report.html.j2").read_text())


def page(report: dict[str, Any]) -> Page:
    parsed = Page()
    parsed.feed(TEMPLATE.render(preflight_report=report))
    return parsed


def test_the_page_of_a_site_without_faults_is_green() -> None:
    parsed = page(preflight_report(as_mappings(), GROUPS, at="2026-01-02 03:04:05 UTC"))
    assert "Passed" in parsed.words
    assert "2026-01-02 03:04:05 UTC" in "".join(parsed.words)
    assert parsed.fetches == []
    assert parsed.tags.count("table") == 1


def test_the_page_shows_every_check() -> None:
    report = preflight_report(as_mappings(host("storage-1", needed=10**13)), GROUPS)
    parsed = page(report)
    assert "1 to put right" in parsed.words
    said = " ".join(parsed.words)
    assert all(check["found"] in said for check in report["checks"])
    assert parsed.words.count("To put right") == 1


@given(evil=st.text(alphabet="<>&\"'ab/= ;{}%") | st.just("</td><script>alert(1)</script>"))
def test_nothing_in_the_page_is_taken_for_html(evil: str) -> None:
    check = dataclasses.asdict(Check(evil, evil, "failed", evil, evil, evil))
    report = {
        "ok": False,
        "failed": 1,
        "at": evil,
        "hosts": [evil],
        "checks": [check],
        "network": {"mode": evil},
    }
    plain = {**report, "hosts": ["a"], "at": "a", "network": {"mode": "a"}}
    plain["checks"] = [dataclasses.asdict(Check("a", "a", "failed", "a", "a", "a"))]
    parsed = page(report)
    assert parsed.tags == page(plain).tags
    assert parsed.fetches == []


def test_what_is_wrong_with_the_zones_is_said_once() -> None:
    variables = {"deepseek_zones_enforced": True}
    host = preflight.Host("a", variables=variables, zones=["zone x: it is odd. Correct it."])
    again = preflight.Host("b", variables=variables, zones=["zone x: it is odd. Correct it."])
    (only,) = preflight.zone_checks([host, again])
    assert (only.name, only.status, only.found) == ("zones", "failed", host.zones[0])


def test_zones_are_judged_where_they_are_enforced() -> None:
    enforced = preflight.Host("a", variables={"deepseek_zones_enforced": True})
    assert [check.status for check in preflight.zone_checks([enforced])] == ["ok"]
    assert list(preflight.zone_checks([preflight.Host("a")])) == []


@pytest.mark.parametrize(
    "says", ["'nope' is undefined", "object of type 'dict' has no attribute 'storage'"]
)
def test_what_cannot_be_read_is_said_of_the_variable_and_not_of_each_role(says: str) -> None:
    refusal = {"role": "model_storage", "task": "Refuse anything", "says": [says]}
    host = Host(name="storage-2", refusals=[refusal])
    assert list(refusal_checks(host, {"addresses"})) == []
    (check,) = refusal_checks(host, {"cpus"})
    assert check.found == says


def test_each_requirement_that_a_role_has_told_is_a_row() -> None:
    findings = [
        {"where": "a, port", "what": "it is 80", "remedy": "Set it", "covered_by": ["variables"]},
        {"where": "a", "what": "it runs Debian 9", "remedy": "Go", "covered_by": ["system"]},
        {"where": "a", "what": "worker 1: odd. Set its name", "remedy": "", "covered_by": []},
        {"where": "a, b", "what": "'c' is undefined", "remedy": "Set c", "covered_by": []},
    ]
    refusal = {"role": "tls", "task": "Any", "says": ["all"], "findings": findings}
    host = Host(name="a", refusals=[refusal])

    def rows(*failed: str) -> list[tuple[str, str]]:
        return [(check.found, check.remedy) for check in refusal_checks(host, set(failed))]

    port, system, worker, undefined = (
        ("port: it is 80", "Set it"),
        ("it runs Debian 9", "Go"),
        ("worker 1: odd", "Set its name"),
        ("b: 'c' is undefined", "Set c"),
    )
    assert rows() == [port, system, worker, undefined]
    assert rows("system") == [port, worker, undefined]
    assert rows("variables") == [system, worker]
