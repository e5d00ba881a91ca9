# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What names a CA may sign: X.509 name constraints (RFC 5280, section 4.2.1.10)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Union

from .objects import Pkcs11Error

if TYPE_CHECKING:
    from cryptography import x509
else:
    try:
        from cryptography import x509
    except ImportError:
        # pkcs11_x509 tells the user, before anything here is called
        x509 = None

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Subtrees:
    """Domains and networks; a kind of which there is none is not constrained."""

    def __init__(self, domains: Iterable[str], networks: Iterable[Network]) -> None:
        known = {domain.lower() for domain in domains}
        self.domains = sorted(
            domain for domain in known if not _below_any(domain, known - {domain})
        )
        networks = list(networks)
        self.networks: list[Network] = [
            *ipaddress.collapse_addresses(
                one for one in networks if isinstance(one, ipaddress.IPv4Network)
            ),
            *ipaddress.collapse_addresses(
                one for one in networks if isinstance(one, ipaddress.IPv6Network)
            ),
        ]

    @property
    def texts(self) -> list[str]:
        """As `DNS:domain` and `IP:network`."""
        return [f"DNS:{domain}" for domain in self.domains] + [f"IP:{net}" for net in self.networks]

    def outside(self, names: Sequence[str]) -> list[str]:
        """Those of the names, each `DNS:...` or `IP:...` (an address or a network), that are in no subtree."""
        return [name for name in names if not self._allows(name)]

    def _allows(self, name: str) -> bool:
        kind, _colon, value = name.partition(":")
        if kind == "DNS":
            return not self.domains or _below_any(value.lower(), self.domains)
        wanted = ipaddress.ip_network(value, strict=False)
        return not self.networks or any(_within(wanted, network) for network in self.networks)


def _below_any(name: str, domains: Iterable[str]) -> bool:
    return any(name == domain or name.endswith("." + domain) for domain in domains)


def _within(one: Network, other: Network) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(other, ipaddress.IPv4Network):
        return one.subnet_of(other)
    if isinstance(one, ipaddress.IPv6Network) and isinstance(other, ipaddress.IPv6Network):
        return one.subnet_of(other)
    return False


def subtrees_of(texts: Sequence[str]) -> Subtrees:
    """From `DNS:domain` (a domain and all below it) and `IP:network` (or an address, with the size of its network)."""
    domains, networks = [], []
    for text in texts:
        kind, _colon, value = text.partition(":")
        try:
            if kind == "IP":
                networks.append(ipaddress.ip_network(value, strict=False))
                continue
        except ValueError as error:
            raise Pkcs11Error(
                "PERMITTED", f"permitted subtree {text!r} is wrong: {error}.", "correct it."
            ) from error
        if kind != "DNS" or not value.strip("."):
            raise Pkcs11Error(
                "PERMITTED",
                f"permitted subtree {text!r} is neither DNS:... nor IP:....",
                "correct it.",
            )
        domains.append(value[2:].strip(".") if value.startswith("*.") else value.strip("."))
    return Subtrees(domains, networks)


def constraints_of(certificate: x509.Certificate) -> Subtrees | None:
    """What the certificate of a CA permits, None where it permits all."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    permitted = found.permitted_subtrees or []
    return Subtrees(
        [name.value for name in permitted if isinstance(name, x509.DNSName)],
        [
            name.value
            for name in permitted
            if isinstance(name, x509.IPAddress)
            and isinstance(name.value, (ipaddress.IPv4Network, ipaddress.IPv6Network))
        ],
    )


def extension_of(texts: Sequence[str]) -> x509.NameConstraints:
    """The extension that permits these subtrees and nothing else of their kinds."""
    wanted = subtrees_of(texts)
    names: list[x509.GeneralName] = [x509.DNSName(domain) for domain in wanted.domains]
    names += [x509.IPAddress(network) for network in wanted.networks]
    return x509.NameConstraints(permitted_subtrees=names, excluded_subtrees=None)


def check_allowed(issuer: x509.Certificate, names: Sequence[str]) -> None:
    """Refuse names that the CA may not sign: every client would refuse the certificate."""
    constraints = constraints_of(issuer)
    left_out = constraints.outside(names) if constraints else []
    if left_out:
        raise Pkcs11Error(
            "NAME_OUTSIDE",
            f"the CA {issuer.subject.rfc4514_string()!r} may not sign {', '.join(left_out)}: its name constraints do not have them.",
            "restore the root's token and PIN and run role tls, which signs the CA for the inventory as it is now; "
            "tls_permitted_domains and tls_permitted_networks allow more in advance.",
        )


def recreate_reason(current: x509.Certificate, wanted: Sequence[str]) -> str | None:
    """Why a CA needs another certificate for these subtrees; one without constraints is left until it is renewed or replaced."""
    constraints = constraints_of(current)
    left_out = constraints.outside(subtrees_of(wanted).texts) if constraints and wanted else []
    return f"its name constraints do not have {', '.join(left_out)}" if left_out else None
