# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight says of hosts and of their GPUs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from faultless_site import (
    ADDRESSES,
    SITE,
    everywhere,
    examined,
    host,
    info,
    judged,
    with_info,
    wrong,
)
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.releases import SCALARS
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import report as preflight
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.check import OK, SKIPPED
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.hosts import refusal_checks
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.report import (
    Check,
    Host,
)


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


PICKLE = {"file": "a.bin", "problem": "it is a pickle", "remedy": "remove it"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"facts": None, "error": "No route to host"},
            "storage-1 reachable: it cannot be used: No route to host | SSH, Python 3, and sudo",
        ),
        ({"info": None, "info_error": "no Python"}, "storage-1 host_info: no Python"),
        (
            {"refusals": [{"role": "tls", "task": "Any", "says": ["storage-1: no key. Copy it."]}]},
            "storage-1 tls: no key |  | Copy it",
        ),
        (
            {"checkpoints": [examined(problems=[PICKLE])]},
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


def test_a_checkpoint_that_could_not_be_examined_is_reported() -> None:
    failed = {"__preflight_entry": examined()["__preflight_entry"], "msg": "no such directory"}
    (only,) = wrong(host("inference-1", checkpoints=[failed]))
    assert only.startswith("inference-1 checkpoint: /srv/import/r1: no such directory")


def releases_of(count: int, **more: Any) -> list[dict[str, Any]]:
    """So many models, each of a worker of its own."""
    listed = [{"model": f"m{number}", "version": "1", **more} for number in range(count)]
    return [
        {**one, "checkpoint": "/srv/r1", "workers": [f"inference-1:w{number}"]}
        for number, one in enumerate(listed)
    ]


@pytest.mark.parametrize(
    ("count", "published", "more", "says"),
    [
        # the checkpoint and its graph, of each release
        (1, [], {}, []),
        (2, [], {}, ["disk_free"] * 4),
        (2, ["m0/1"], {}, []),
        (1, [], {"precisions": [{"name": "int8"}, {"name": "fp16"}]}, ["disk_free"] * 4),
        (1, [], {"export": False}, []),
        (2, ["m0/1", "m1/1"], {}, []),
        # what a processor runs is in memory as well
        (3, ["m0/1", "m1/1", "m2/1"], {}, ["release_memory"]),
        (3, ["m0/1", "m1/1", "m2/1"], {"precision": "int8", "precisions": [{"name": "int8"}]}, []),
    ],
)
def test_all_releases_of_the_list_have_room(
    count: int, published: list[str], more: dict[str, Any], says: list[str]
) -> None:
    """Each checkpoint has 400 GB, hosts have 1000 GB free and 540 GB of memory twice over."""
    without = [name for name in SITE if name not in SCALARS.values()]
    workers = [{"name": f"w{number}"} for number in range(count)]
    changed = {
        name: host(
            name,
            variables={
                **{one: SITE[one] for one in without},
                "deepseek_zone_addresses": ADDRESSES[name],
                "deepseek_releases": releases_of(count, **more),
                **({"deepseek_workers": workers} if name == "inference-1" else {}),
            },
            published=published,
        )
        for name in ADDRESSES
    }
    sizes = [examined(f"m{number}/1", 400 * 10**9) for number in range(count)]
    twice = {**(host("inference-1").facts or {}), "memtotal_mb": 2 * 515000}
    changed["inference-1"] = dataclasses.replace(
        changed["inference-1"], checkpoints=sizes, facts=twice
    )
    lines = wrong(*changed.values())
    assert [line.split()[1].rstrip(":") for line in lines] == says, lines


def test_what_of_a_checkpoint_is_left_to_the_publish_is_said() -> None:
    """Unless it is refused already."""
    for problems, expected in (([], ["deferred"]), ([PICKLE], ["failed"])):
        unread = examined(problems=problems, read_by_service=False)
        found = judged(host("storage-1", checkpoints=[unread]))
        assert [one.status for one in found if one.name == "checkpoint"] == expected
    assert not [one for one in judged(host("storage-1")) if one.name == "checkpoint"]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (
            {"distribution": "Ubuntu"},
            "system: Ubuntu 12: there is nothing for this system | Debian 12 or 13 | Reinstall",
        ),
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


def test_a_system_that_is_accepted_untested_is_named_as_such() -> None:
    noble = {
        "distribution": "Ubuntu",
        "distribution_version": "24.04",
        "distribution_major_version": "24",
    }
    plain = host("inference-1")
    ubuntu = dataclasses.replace(plain, facts={**(plain.facts or {}), **noble})
    (only,) = wrong(ubuntu)
    assert "system: Ubuntu 24.04: no role was tested on it" in only
    assert "deepseek_accept_untested_os" in only
    accepts = {**plain.variables, "deepseek_accept_untested_os": True}
    found = judged(dataclasses.replace(ubuntu, variables=accepts))
    assert "inference-1, system: Ubuntu 24.04: no role was tested on it" in preflight.lines(
        found, 1
    )
    assert [one.status for one in found if one.host == "inference-1" and one.name == "system"] == [
        "untested"
    ]


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
    repaired = [dataclasses.replace(one, info=info(one.name)) for one in hosts]
    assert wrong(*repaired) == []


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
