# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who could copy the keys: what a host says of its tokens, PINs and disk, and how that is judged before a rollout.

A token in software is a directory of files, and its PIN is another file: anyone with the disk has the keys. So
each such weakness is a finding, which a site can accept by name, in ``deepseek_accepted_key_risks``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOKENS = {"release": ("root", "ca", "release"), "gateway": ("gateway",)}
CRYPT = "CRYPT-"

# Each risk that can be accepted, and what accepting it means.
RISKS = {
    "software_tokens": "keys are files: anyone with the disk, or a backup of it, has the keys",
    "plain_pins": "PINs are readable files: root on the host can use its tokens, and a copy of the disk has the PINs",
    "root_online": "the key of the root CA stays on the release host: anyone who takes that host can issue every certificate",
    "unencrypted_disk": "the disk with tokens and PINs is not encrypted: a discarded or stolen disk gives them away",
}


@dataclass(frozen=True)
class Finding:
    """One judgment: the risk, whether it is there, whether the site accepts it, what was found, and what to do."""

    risk: str
    present: bool | None
    accepted: bool
    found: str
    remedy: str = ""


# On the host


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(2**20).strip()
    except OSError:
        return ""


def _existing(path: str) -> str:
    """The path, or the nearest directory above it that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def _mounted_device(path: str, mountinfo: str) -> tuple[int, int] | None:
    """The block device below a path, also where the file system (btrfs) has numbers of its own."""
    number = os.stat(path).st_dev
    if os.major(number):
        return os.major(number), os.minor(number)
    best, source = "", ""
    # by line feed alone: a mount point may have other characters in its name that Python takes for ends
    for line in mountinfo.split("\n"):
        fields, _dash, rest = line.partition(" - ")
        point = fields.split(" ")[4] if fields.count(" ") >= 4 else ""
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if point and inside and len(point) >= len(best) and rest.count(" ") >= 1:
            best, source = point, rest.split(" ")[1]
    try:
        device = os.stat(source).st_rdev
    except (OSError, ValueError):
        return None
    return (os.major(device), os.minor(device)) if device else None


def _encrypted(device: str, depth: int = 0) -> bool:
    """Whether a block device, given by its directory in sysfs, is encrypted itself or lies on devices that all are."""
    if _read(os.path.join(device, "dm", "uuid")).startswith(CRYPT):
        return True
    try:
        below = sorted(os.listdir(os.path.join(device, "slaves")))
    except OSError:
        return False
    # no stack of devices is so high; a loop of links would be
    if not below or depth > 16:
        return False
    return all(_encrypted(os.path.join(device, "slaves", name), depth + 1) for name in below)


def encrypted(path: str, root: str = "/") -> bool | None:
    """Whether the file system of a path is on LUKS or another dm-crypt; None where that cannot be seen, as in a container."""
    numbers = _mounted_device(_existing(path), _read(os.path.join(root, "proc/self/mountinfo")))
    if numbers is None:
        return None
    device = os.path.join(root, "sys/dev/block", "{}:{}".format(*numbers))
    return _encrypted(os.path.realpath(device)) if os.path.exists(device) else None


def state(config: str, tokens: str, certificates: str, root: str = "/") -> dict[str, Any]:
    """What a host has: plain PIN files, whether the root is here and has done its work, a TPM 2, and an encrypted disk."""
    names = sorted({name for group in TOKENS.values() for name in group})
    directories = {name: os.path.join(config, "hsm", name) for name in names}

    def there(name: str) -> bool:
        return any(
            os.path.exists(os.path.join(directories[name], file)) for file in ("pin", "pin.cred")
        )

    return {
        "plain_pins": [n for n in names if os.path.exists(os.path.join(directories[n], "pin"))],
        "root_here": there("root") or os.path.isdir(os.path.join(tokens, "root")),
        "authority": os.path.exists(os.path.join(certificates, "issuing.pem")),
        "tpm2": _read(os.path.join(root, "sys/class/tpm/tpm0/tpm_version_major")) == "2",
        "encrypted": encrypted(tokens, root),
    }


# On the controller


def judge(
    variables: Mapping[str, Any], groups: Sequence[str], seen: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """Judge one host of the groups that have tokens; ``seen`` is what :func:`state` found, None where nobody looked."""
    accepted = variables.get("deepseek_accepted_key_risks") or ()

    def finding(risk: str, present: bool | None, found: str, remedy: str) -> Finding:
        return Finding(risk, present, risk in accepted, found, remedy)

    if not set(groups) & set(TOKENS):
        return
    module = str(variables.get("deepseek_pkcs11_module") or "")
    software = "softhsm" in os.path.basename(module).lower()
    yield finding("software_tokens", software, module, "Use a hardware token")
    if seen is None:
        return
    # the first run makes those of the release host in plain text where there is no TPM
    first = "release" in groups and not seen["authority"] and not seen["tpm2"]
    plain = seen["plain_pins"] or (TOKENS["release"] if first else ())
    yield finding(
        "plain_pins",
        bool(plain),
        f"of {', '.join(plain)}" if plain else "none",
        "Seal them to the host's TPM 2 with systemd-creds, or use a hardware token, where a PIN alone is worth nothing",
    )
    if "release" in groups:
        yield finding(
            "root_online",
            seen["root_here"] if seen["authority"] else None,
            ("it is here" if seen["root_here"] else "it is away")
            if seen["authority"]
            else "it is made here by the first run, and is to be taken off the host after it",
            "Take it off the host",
        )
    words = {True: "it is encrypted", False: "it is not", None: "that cannot be seen"}
    yield finding(
        "unencrypted_disk",
        not seen["encrypted"],
        words[seen["encrypted"]],
        "Put the tokens on a LUKS volume",
    )


def unknown_risks(value: Any) -> list[str]:
    """What of a value of deepseek_accepted_key_risks is no risk; the value itself if it is no list."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [str(value)]
    return [str(item) for item in value if item not in RISKS]
