# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NICs below a /sys of our own, the real clock, and real files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.preflight import host_state
from ansible_collections.onprem.deepseek.plugins.module_utils.preflight.host_state import (
    clock_error_ms,
    disk_of,
    links_in,
    nics_of,
    read_rate,
    time_service,
)


def link(name: str, *addresses: str, mtu: int = 1500) -> dict[str, Any]:
    return {"ifname": name, "mtu": mtu, "addr_info": [{"local": text} for text in addresses]}


def device(root: Path, name: str, speed: str | None = None, *lower: str) -> None:
    """A NIC of the kernel: hardware where it has a speed."""
    directory = root / "sys/class/net" / name
    directory.mkdir(parents=True)
    if speed is not None:
        (directory / "device").mkdir()
        (directory / "speed").write_text(speed)
    for one in lower:
        (directory / f"lower_{one}").symlink_to(f"../{one}")


def speed_of(root: Path, name: str) -> tuple[int | None, str]:
    nic = nics_of({"storage": "10.0.0.1"}, [link(name, "10.0.0.1")], root)["storage"]
    assert nic is not None
    return nic.speed_mbps, nic.unknown


def test_the_nic_is_that_of_the_address(tmp_path: Path) -> None:
    device(tmp_path, "eno1", "25000\n")
    links = [link("lo", "127.0.0.1", "::1"), link("eno1", "10.0.0.1", "fd00::1", mtu=9000)]
    found = nics_of(
        {"storage": "10.0.0.1", "service": "fd00:0::1", "inference": "10.0.0.9", "x": ["?"]},
        links,
        tmp_path,
    )
    assert found["storage"] == host_state.Nic("10.0.0.1", "eno1", 9000, 25000)
    assert found["service"] == host_state.Nic("fd00:0::1", "eno1", 9000, 25000)
    assert (found["inference"], found["x"]) == (None, None)


def test_speeds(tmp_path: Path) -> None:
    device(tmp_path, "eno1", "10000\n")
    device(tmp_path, "eno2", "25000\n")
    device(tmp_path, "virtio", "-1\n")
    device(tmp_path, "eno1.20", None, "eno1")
    device(tmp_path, "br0", None, "eno1", "veth7")
    device(tmp_path, "veth7")
    device(tmp_path, "br1", None, "veth7")
    assert speed_of(tmp_path, "eno1.20") == (10000, "")
    assert speed_of(tmp_path, "br0") == (10000, "")
    assert speed_of(tmp_path, "virtio") == (None, "virtio does not say its speed")
    assert speed_of(tmp_path, "br1") == (None, "veth7 is a virtual NIC")


def test_a_virtual_nic_that_claims_a_speed_has_none(tmp_path: Path) -> None:
    device(tmp_path, "eth0")
    (tmp_path / "sys/class/net/eth0/speed").write_text("10000\n")
    assert speed_of(tmp_path, "eth0") == (None, "eth0 is a virtual NIC")


def test_a_bond_says_itself_what_it_does(tmp_path: Path) -> None:
    device(tmp_path, "eno1", "10000\n")
    device(tmp_path, "bond0", None, "eno1")
    (tmp_path / "sys/class/net/bond0/bonding").mkdir()
    (tmp_path / "sys/class/net/bond0/speed").write_text("20000\n")
    assert speed_of(tmp_path, "bond0") == (20000, "")


def test_a_nic_without_a_link(tmp_path: Path) -> None:
    device(tmp_path, "eno1", "10000")
    (tmp_path / "sys/class/net/eno1/speed").unlink()
    assert speed_of(tmp_path, "eno1") == (None, "eno1 has no link")


@pytest.mark.parametrize("text", ["{}", "[", "1"])
def test_what_ip_prints_must_be_a_list(text: str) -> None:
    assert links_in("") == links_in("[]") == []
    with pytest.raises(ValueError, match=r".+"):
        links_in(text)


def test_the_clock_says_how_true_it_is() -> None:
    assert 0 <= clock_error_ms() <= host_state.UNSYNCHRONISED_MS


def test_time_services(tmp_path: Path) -> None:
    for number, name in enumerate(["systemd", "chronyc", "sshd"]):
        (tmp_path / f"proc/{number}").mkdir(parents=True)
        (tmp_path / f"proc/{number}/comm").write_text(f"{name}\n")
    assert time_service(tmp_path) == ""
    (tmp_path / "proc/9").mkdir()
    (tmp_path / "proc/9/comm").write_text("chronyd\n")
    assert time_service(tmp_path) == "chronyd"


def test_the_nearest_directory_counts(tmp_path: Path) -> None:
    disk = disk_of(str(tmp_path / "not/there/yet"), "", 0)
    assert disk.path == str(tmp_path)
    assert disk.size is not None
    assert disk.free is not None
    assert 0 < disk.free <= disk.size
    assert (disk.read_mb_s, disk.read_from, disk.unknown) == (None, "", "")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    disk = disk_of(str(tmp_path), "/dev/not-there", 1)
    assert (disk.size, disk.unknown) == (None, "/dev/not-there: No such file or directory")
    disk = disk_of(str(tmp_path), str(tmp_path), 1)
    assert disk.unknown == f"{tmp_path} is no block device"


def mounts(root: Path, *lines: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("".join(f"{line}\n" for line in lines))
    return root


def test_a_store_on_no_block_device_and_without_files_is_unknown(tmp_path: Path) -> None:
    root = mounts(tmp_path, "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/x")
    store = tmp_path / "store"
    store.mkdir()
    (store / "small").write_bytes(b"x")
    disk = disk_of(str(store), "", 0.1, root)
    assert disk.read_mb_s is None
    assert disk.unknown == f"{store} is on no block device, and has no large file"


def test_the_device_is_that_of_the_nearest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = mounts(
        tmp_path,
        "1 0 8:1 / / rw - ext4 /dev/root rw",
        "2 1 8:2 / /srv/my\\040store rw shared:1 - xfs /dev/store rw",
        "3 1 0:9 / /srv/my\\040storehouse rw - tmpfs tmpfs rw",
    )
    block = os.stat_result((stat.S_IFBLK, *[0] * 9))
    monkeypatch.setattr(host_state.os, "stat", lambda path: block)
    assert host_state._block_device(Path("/srv/my store/models"), root) == "/dev/store"
    assert host_state._block_device(Path("/srv"), root) == "/dev/root"


def test_a_large_file_is_read_and_not_changed() -> None:
    """Next to this test: a temporary directory may be in memory, where no cache can be passed."""
    path = Path(__file__).with_suffix(f".{os.getpid()}.tmp")
    try:
        path.write_bytes(os.urandom(1 << 20) * 80)
        before = path.stat()
        rate, unknown = read_rate(str(path), 5)
        after = path.stat()
    finally:
        path.unlink()
    if rate is None:
        assert unknown.startswith(f"{path} cannot be read past the cache")
    else:
        assert rate > 1
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


def test_what_is_too_small_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    rate, unknown = read_rate(str(path), 5)
    assert rate is None
    assert "too small" in unknown or "past the cache" in unknown
    rate, unknown = read_rate(str(tmp_path / "nothing"), 5)
    assert (rate, unknown) == (
        None,
        f"{tmp_path}/nothing cannot be read past the cache: No such file or directory",
    )


@pytest.mark.parametrize(
    "name", ["模型", "with space", "with\ttab", "back\\slash", "new\nline", "#mark", "a\\040b"]
)
def test_a_mount_point_of_any_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kind: octal escapes of the kernel read as Python reads its own, UTF-8 as Latin-1."""
    store = tmp_path / name
    store.mkdir()
    monkeypatch.setattr(host_state.stat, "S_ISBLK", lambda mode: True)
    escaped = str(store)
    for plain, octal in (("\\", "134"), (" ", "040"), ("\t", "011"), ("\n", "012"), ("#", "043")):
        escaped = escaped.replace(plain, f"\\{octal}")
    (tmp_path / "proc/self").mkdir(parents=True)
    lines = ["20 1 8:1 / / rw - ext4 /dev/null rw", f"21 20 8:2 / {escaped} rw - xfs /dev/zero rw"]
    (tmp_path / "proc/self/mountinfo").write_text("\n".join(lines) + "\n")
    assert host_state._block_device(store, tmp_path) == "/dev/zero"


def test_a_process_name_that_is_cut_inside_a_character_is_read(tmp_path: Path) -> None:
    """The kernel cuts names to 15 bytes, whatever they are."""
    for pid, comm in (("1", "推理服务工作".encode()[:15][:-1] + b"\n"), ("2", b"chronyd\n")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "comm").write_bytes(comm)
    assert host_state.time_service(tmp_path) == "chronyd"
