# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an inventory must say before a rollout may change anything. What its hosts must be is in :mod:`preflight`.

Everything that is wrong is found in one go: each function gives all problems of its subject.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.names import NAME
from ..common.findings import Finding
from ..pkcs11 import custody
from ..store.placement import REPLICAS
from . import release_findings, releases, requirements, role_exports, role_variables, workers


@dataclass(frozen=True)
class Host:
    """What the inventory says of one host. ``unread`` says of variables that cannot be read why."""

    name: str
    addresses: Any = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)


def common(hosts: Sequence[Host]) -> dict[str, Any]:
    """The site's variables: what the first host that has one says, since one host may have none that can be read."""
    return {name: value for host in reversed(hosts) for name, value in host.variables.items()}


Check = Callable[[Any], bool]


def _matches(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_port(value: Any) -> bool:
    text = str(value)
    return not isinstance(value, bool) and text.isdecimal() and 1 <= int(text) <= 65535


def _is_unprivileged_port(value: Any) -> bool:
    return _is_port(value) and int(str(value)) >= 1024


def _is_sources(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(
            isinstance(url, str) and re.fullmatch(r"https://[^/\s]+|file:///\S+", url)
            for url in value
        )
    )


def only_mounted(hosts: Sequence[Host]) -> bool:
    """Whether all hosts read the store where it is mounted: then something else keeps the copies."""

    def mounted(sources: Any) -> bool:
        return _is_sources(sources) and all(url.startswith("file:") for url in sources)

    readable = [host for host in hosts if "deepseek_store_sources" not in host.unread]
    return bool(readable) and all(
        mounted(host.variables.get("deepseek_store_sources")) for host in readable
    )


def _is_environment(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*", name) and _is_word(text)
        for name, text in value.items()
    )


def _is_models_by_certificate(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and re.fullmatch(r"[^'\"\x00-\x1f\x7f]+", name)
        and isinstance(models, Sequence)
        and not isinstance(models, str)
        and all(isinstance(model, str) and re.fullmatch(NAME, model) for model in models)
        for name, models in value.items()
    )


def _is_word(text: Any) -> bool:
    """Whether systemd and a command line take it as one word."""
    return isinstance(text, str) and re.fullmatch(r"[^\s'\"\\%$]+", text) is not None


_name = _matches(NAME)
_directory = release_findings.is_directory
_dns = _matches(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True)
class Variable:
    """A site variable: what it must be, in words and as a test."""

    rule: str
    accepts: Check
    required: bool = True


# What a value must be beyond its type in the specification.
_CHECKS: dict[str, Check] = {
    "deepseek_service_name": _dns,
    "deepseek_model_name": _name,
    "deepseek_model_version": _name,
    "deepseek_precisions": release_findings.is_precisions,
    "deepseek_api_keys_file": lambda value: value == "" or _directory(value),
    "deepseek_certificate_models": _is_models_by_certificate,
    "deepseek_pkcs11_environment": _is_environment,
    "deepseek_accepted_key_risks": lambda value: not custody.unknown_risks(value),
    "deepseek_copies": lambda value: _is_port(value) and int(str(value)) <= REPLICAS,
    "deepseek_store_sources": _is_sources,
    "deepseek_inference_port": _is_unprivileged_port,
}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


# As YAML has them, and not what Ansible would make of other values.
_TYPES: dict[str, Check] = {
    "bool": lambda value: isinstance(value, bool),
    "dict": lambda value: isinstance(value, Mapping),
    "int": _is_port,
    "list": lambda value: _is_list(value) and all(isinstance(item, Mapping) for item in value),
    "path": _directory,
}
_MUST_BE = "Must be "


@functools.cache
def variables() -> dict[str, Variable]:
    """Read every site variable from the specification of role preflight's entry point ``site``; no other deepseek_* exists."""
    options = role_variables.entry_point("preflight", "site")
    return {
        name: _variable(name, spec) for name, spec in options.items() if name not in HOST_VARIABLES
    }


def _variable(name: str, spec: Mapping[str, Any]) -> Variable:
    choices = [str(choice) for choice in spec.get("choices", ())]
    accepts = _CHECKS.get(name) or _one_of(choices) or _TYPES[spec["type"]]
    rule = f"{'a list of' if spec['type'] == 'list' else 'one of'} {', '.join(choices)}"
    if not choices:
        rule = spec["description"][-1].removeprefix(_MUST_BE).removesuffix(".")
    return Variable(rule, accepts, bool(spec.get("required", False)))


def _one_of(choices: Sequence[str]) -> Check | None:
    return (lambda value: isinstance(value, str) and value in choices) if choices else None


# Of each host, and not the same on all of them.
HOST_VARIABLES = ("deepseek_zone_addresses", "deepseek_zone_addresses_ipv6", "deepseek_workers")


def copies(hosts: Sequence[Host]) -> int:
    """On how many storage hosts every model is: what the site says, or as many as it should."""
    said = common(hosts).get("deepseek_copies")
    return int(str(said)) if said is not None and _CHECKS["deepseek_copies"](said) else REPLICAS


def group_problems(
    groups: Mapping[str, Sequence[str]], mounted: bool = False, wanted: int = REPLICAS
) -> Iterator[Finding]:
    """Find groups that have too few hosts, or too many. *mounted*: the store is no host's, but mounted. *wanted*: copies of every model."""
    count = {name: len(groups.get(name, ())) for name in requirements.GROUPS}
    if count["storage"] < wanted and not (mounted and count["storage"] == 0):
        yield Finding(
            "group storage",
            f"it has {_hosts(count['storage'])}, and every model is kept on {wanted}",
            f"Add {_hosts(wanted - count['storage'])} to the group, or for a trial set deepseek_copies to fewer",
        )
    if count["release"] != 1:
        yield Finding(
            "group release",
            f"it has {_hosts(count['release'])}, and exactly one keeps the CA and signing keys",
            "Name one of the inference hosts",
        )
    for name in ("gateway", "inference"):
        if not count[name]:
            yield Finding(f"group {name}", "it has no host", "Add at least one host to the group")


def _hosts(count: int) -> str:
    return f"{count or 'no'} host{'' if count == 1 else 's'}"


def variable_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find site variables that are missing, malformed, unknown, or not the same on all hosts."""
    listed = common(hosts).get(releases.LIST) is not None
    of_one_release = {releases.SCALARS[key] for key in releases.NEEDED}
    for name, variable in variables().items():
        values = {host.name: host.variables.get(name) for host in hosts if name not in host.unread}
        lacking = [host for host, value in values.items() if value is None]
        needed = variable.required or (name in of_one_release and not listed)
        if lacking and not needed and len(lacking) == len(values):
            continue
        if lacking:
            yield Finding(
                name, f"it is not set for {', '.join(lacking)}", "Set it in group_vars/all"
            )
            continue
        if len({repr(value) for value in values.values()}) > 1:
            said = "; ".join(f"{value!r} for {host}" for host, value in values.items())
            yield Finding(name, f"hosts differ: {said}", "Set it once, in group_vars/all")
        for value in {repr(value): value for value in values.values()}.values():
            if not variable.accepts(value):
                yield Finding(
                    name, f"it is {value!r}", f"It must be {variable.rule}{_typed(name, value)}"
                )
    unknown = (
        {name for host in hosts for name in host.variables}
        - variables().keys()
        - set(HOST_VARIABLES)
    )
    for name in sorted(unknown):
        close = difflib.get_close_matches(name, variables(), n=1)
        yield Finding(
            name,
            "there is no site variable of this name",
            f"Did you mean {close[0]}"
            if close
            else "Remove it, or name your own variables otherwise",
        )
    yield from _port_problems(hosts)
    yield from release_findings.list_problems(common(hosts))
    yield from _minimum_problems(hosts)
    yield from _zone_problems(hosts)


def _typed(name: str, value: Any) -> str:
    """What to write where text was given for something else, as -e name=value always does."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return f"; on the command line: -e '{{\"{name}\": {value.lower()}}}'"
    return ""


def unread_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find variables that cannot be read, each once for all hosts that it is so on."""
    found: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        for name, why in host.unread.items():
            found.setdefault((name, why), []).append(host.name)
    for (name, why), names in found.items():
        remedy = (
            "Give the password with --ask-vault-pass or --vault-password-file, or encrypt the variable with the password of this run"
            if "vault" in why.lower() or "decrypt" in why.lower()
            else "Correct it in the variables of these hosts or of their groups"
        )
        yield Finding(name, f"it cannot be read for {', '.join(names)}: {why.rstrip('.')}", remedy)


def _zone_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find zones that are to be enforced and are not there."""
    values = common(hosts)
    if values.get("deepseek_zones_enforced") is True and not values.get("deepseek_zones"):
        yield Finding(
            "deepseek_zones_enforced",
            "it is true, and deepseek_zones is not set",
            "Write the networks of each zone into deepseek_zones",
        )


def _minimum_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find minimums that do not exist, or cannot be compared with."""
    value = common(hosts).get("deepseek_minimums")
    if isinstance(value, Mapping):
        for where, what, remedy in requirements.problems(value):
            yield Finding(f"deepseek_minimums.{where}", what, remedy)


def _port_problems(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find two services of one host (release and inference hosts have both) on one port."""
    values = common(hosts)
    storage, inference = values.get("deepseek_storage_port"), values.get("deepseek_inference_port")
    if storage is not None and str(storage) == str(inference):
        yield Finding(
            "deepseek_storage_port",
            f"it is {storage}, as deepseek_inference_port is",
            "Change one of them",
        )


def worker_problems(host: Host) -> Iterator[Finding]:
    """Find workers that cannot be, or that would listen where the store is served."""
    listed, port = (
        host.variables.get("deepseek_workers"),
        host.variables.get("deepseek_inference_port"),
    )
    if listed is None or not _is_unprivileged_port(port):
        return
    where = f"{host.name}, deepseek_workers"
    wrong = workers.problems(listed, port)
    for what in wrong:
        yield Finding(where, what, "Correct it in the host's variables")
    storage = host.variables.get("deepseek_storage_port")
    for worker in [] if wrong else workers.workers(listed, int(str(port))):
        if str(worker["port"]) == str(storage) != str(port):
            yield Finding(
                where,
                f"worker {worker['name']} has port {storage}, as deepseek_storage_port is",
                "Change one of them",
            )


def release_problems(
    groups: Mapping[str, Sequence[str]], hosts: Sequence[Host]
) -> Iterator[Finding]:
    """Find what is wrong with who serves which release."""
    mine = groups.get("inference", ())
    told = {host.name: host.variables for host in hosts if host.name in mine}
    if releases.said(common(hosts)):
        yield from release_findings.placement_problems(
            [name for name in mine if name in told], told
        )


def address_problems(
    groups: Mapping[str, Sequence[str]], hosts: Sequence[Host]
) -> Iterator[Finding]:
    """Find hosts without an address in a zone of theirs, and addresses that are wrong or used twice."""
    users: dict[str, list[str]] = {}
    zones = role_exports.zones_of_groups()
    for host in hosts:
        if "deepseek_zone_addresses" in host.unread:
            continue
        if not isinstance(host.addresses, Mapping):
            yield Finding(
                host.name,
                "deepseek_zone_addresses is not set"
                if host.addresses is None
                else "deepseek_zone_addresses is no mapping",
                "Map each zone of the host to its address there",
            )
            continue
        mine = [name for name in zones if host.name in groups.get(name, ())]
        for zone in dict.fromkeys(zone for name in mine for zone in zones[name]):
            if zone not in host.addresses:
                yield Finding(
                    host.name,
                    f"it has no address in the {zone} zone, and is in group {', '.join(mine)}",
                    f"Set deepseek_zone_addresses.{zone}",
                )
        for zone, text in host.addresses.items():
            yield from _address_problems(host.name, str(zone), text, _zones(host))
            users.setdefault(str(text), []).append(host.name)
    for text, names in users.items():
        if len(set(names)) > 1:
            yield Finding(
                ", ".join(names), f"they share the address {text}", "Give each host its own"
            )


def _zones(host: Host) -> list[str]:
    """Give the zones that services of this collection are in, and those that the site has beside them."""
    more = host.variables.get("deepseek_zones")
    own = [zone for zones in role_exports.zones_of_groups().values() for zone in zones]
    return list(dict.fromkeys([*own, *(map(str, more) if isinstance(more, Mapping) else ())]))


def _address_problems(name: str, zone: str, text: Any, known: Sequence[str]) -> Iterator[Finding]:
    where = f"{name}, deepseek_zone_addresses.{zone}"
    if zone not in known:
        yield Finding(where, "there is no such zone", f"The zones are {', '.join(known)}")
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        yield Finding(where, f"{text!r} is not an IP address", "Correct it")
