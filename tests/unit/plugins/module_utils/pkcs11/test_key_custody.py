# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who could copy the keys is said before a rollout, and must be accepted by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import custody as key_custody

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
LUNA = "/usr/safenet/lunaclient/lib/libCryptoki2_64.so"
SAFE = {
    "plain_pins": [],
    "root_here": False,
    "authority": True,
    "tpm2": True,
    "encrypted": True,
}
RELEASE, GATEWAY = ["inference", "release"], ["gateway"]


def present(
    groups: list[str], module: str = LUNA, accepted: Any = (), **seen: Any
) -> dict[str, bool | None]:
    variables = {"deepseek_pkcs11_module": module, "deepseek_accepted_key_risks": accepted}
    found = list(key_custody.judge(variables, groups, SAFE | seen))
    assert all(finding.accepted == (finding.risk in accepted) for finding in found)
    assert all(finding.found and finding.remedy for finding in found)
    return {finding.risk: finding.present for finding in found}


def test_a_safe_host_has_no_finding() -> None:
    assert present(RELEASE) == dict.fromkeys(key_custody.RISKS, False)
    assert present(GATEWAY) == dict.fromkeys(set(key_custody.RISKS) - {"root_online"}, False)
    assert present(["storage", "inference"]) == {}


@pytest.mark.parametrize(
    ("risk", "changes"),
    [
        ("software_tokens", {"module": SOFTHSM}),
        ("software_tokens", {"module": "/opt/SoftHSM/lib/softhsm/libSoftHSM2.so"}),
        ("plain_pins", {"plain_pins": ["ca"]}),
        ("root_online", {"root_here": True}),
        ("unencrypted_disk", {"encrypted": False}),
        ("unencrypted_disk", {"encrypted": None}),
    ],
)
def test_each_risk_is_found_and_can_be_accepted(risk: str, changes: dict[str, Any]) -> None:
    assert present(RELEASE, **changes)[risk] is True
    assert present(RELEASE, accepted=[risk], **changes)[risk] is True
    assert [name for name, there in present(RELEASE, **changes).items() if there] == [risk]


def test_before_the_first_run_what_it_will_leave_is_judged() -> None:
    found = present(RELEASE, authority=False, tpm2=False)
    assert found["plain_pins"] is True
    assert present(RELEASE, authority=False, tpm2=True)["plain_pins"] is False
    assert found["root_online"] is None, "the root must be there to sign the CA"


def test_a_host_at_which_nobody_looked_is_judged_by_the_inventory() -> None:
    found = key_custody.judge({"deepseek_pkcs11_module": SOFTHSM}, GATEWAY, None)
    assert [(finding.risk, finding.present) for finding in found] == [("software_tokens", True)]


@pytest.mark.parametrize(
    ("value", "unknown"),
    [
        ([], []),
        (list(key_custody.RISKS), []),
        (["root_onlin"], ["root_onlin"]),
        ("root_online", ["root_online"]),
        (None, ["None"]),
        ([1], ["1"]),
    ],
)
def test_only_known_risks_can_be_accepted(value: Any, unknown: list[str]) -> None:
    assert key_custody.unknown_risks(value) == unknown


def test_state_says_which_pins_are_plain_and_where_the_root_is(tmp_path: Path) -> None:
    def look() -> dict[str, Any]:
        paths = (str(tmp_path / name) for name in ("etc", "tokens", "tls", "sysroot"))
        return key_custody.state(*paths)

    assert look() == {
        "plain_pins": [],
        "root_here": False,
        "authority": False,
        "tpm2": False,
        "encrypted": None,
    }
    for name in ("root/pin", "ca/pin.cred", "gateway/pin"):
        (tmp_path / "etc" / "hsm" / name).parent.mkdir(parents=True)
        (tmp_path / "etc" / "hsm" / name).write_text("1234")
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "issuing.pem").write_text("")
    tpm = tmp_path / "sysroot" / "sys/class/tpm/tpm0"
    tpm.mkdir(parents=True)
    (tpm / "tpm_version_major").write_text("2\n")
    found = look()
    assert found["plain_pins"] == ["gateway", "root"]
    assert (found["root_here"], found["authority"], found["tpm2"]) == (True, True, True)
    (tmp_path / "etc/hsm/root/pin").unlink()
    assert look()["root_here"] is False
    (tmp_path / "tokens" / "root").mkdir(parents=True)
    assert look()["root_here"] is True, "the token without its PIN is still a copy of the key"


def sysfs(root: Path, devices: dict[str, tuple[str, list[str]]], numbers: str, name: str) -> None:
    """Devices with the UUID that device mapper gives them, and what each lies on."""
    for device, (uuid, slaves) in devices.items():
        directory = root / "sys/devices" / device
        (directory / "slaves").mkdir(parents=True, exist_ok=True)
        if uuid:
            (directory / "dm").mkdir()
            (directory / "dm" / "uuid").write_text(uuid + "\n")
        for slave in slaves:
            (directory / "slaves" / slave).symlink_to(root / "sys/devices" / slave)
    block = root / "sys/dev/block"
    block.mkdir(parents=True)
    (block / numbers).symlink_to(root / "sys/devices" / name)


LUKS = "CRYPT-LUKS2-0123-luks"


@pytest.mark.parametrize(
    ("devices", "encrypted"),
    [
        ({"top": ("", [])}, False),
        ({"top": (LUKS, ["sda"]), "sda": ("", [])}, True),
        ({"top": ("LVM-abc", ["luks"]), "luks": (LUKS, ["sda"]), "sda": ("", [])}, True),
        ({"top": ("LVM-abc", ["luks", "sdb"]), "luks": (LUKS, []), "sdb": ("", [])}, False),
        ({"top": ("", ["m1", "m2"]), "m1": (LUKS, []), "m2": ("CRYPT-PLAIN-x", [])}, True),
        ({"top": ("LVM-abc", ["sda"]), "sda": ("", [])}, False),
    ],
    ids=["disk", "LUKS", "LVM on LUKS", "LVM half on LUKS", "RAID of two", "LVM"],
)
def test_encryption_is_seen_below_other_layers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: dict[str, tuple[str, list[str]]],
    encrypted: bool,
) -> None:
    sysfs(tmp_path, devices, "253:7", "top")
    monkeypatch.setattr(key_custody, "_mounted_device", lambda path, mountinfo: (253, 7))
    assert key_custody.encrypted("/var/lib/deepseek/hsm", str(tmp_path)) is encrypted


def test_a_file_system_with_numbers_of_its_own_is_found_by_its_mount(tmp_path: Path) -> None:
    if os.major(os.stat(tmp_path).st_dev):
        line = f"1 0 8:1 / {tmp_path} rw - ext4 /dev/null rw"
        assert key_custody._mounted_device(str(tmp_path), line) is not None
    else:
        device = os.stat("/dev/null").st_rdev
        lines = f"1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / {tmp_path} rw - btrfs /dev/null rw"
        assert key_custody._mounted_device(str(tmp_path), lines) == (
            os.major(device),
            os.minor(device),
        )
        assert key_custody._mounted_device("/", lines) is None
