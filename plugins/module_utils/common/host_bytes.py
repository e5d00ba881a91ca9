# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

r"""A host's bytes as text: whatever they are, a module reads them, and its result can be written as JSON.

A process name that the kernel cut inside a character, a file name of another encoding or a damaged log are no UTF-8. Such bytes stay readable
as ``\xe6``; they neither end a module nor vanish.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def text_of(data: bytes) -> str:
    """The bytes as text, those that are no UTF-8 as escapes."""
    return data.decode("utf-8", "backslashreplace")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a small file of the host; raises OSError."""
    with open(path, "rb") as stream:
        return text_of(stream.read())


def printable(value: Any) -> Any:
    """The same with nothing in it that UTF-8 cannot write: Python keeps bytes that are no UTF-8 as surrogates (PEP 383)."""
    if isinstance(value, str):
        return _printable_text(value)
    if isinstance(value, bytes):
        return text_of(value)
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [printable(item) for item in value]
    return value


def _printable_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            # half of a pair that JSON wrote as an escape, and no byte
            data = text.encode("utf-8", "surrogatepass")
        return text_of(data)
    return text


class HostModule(AnsibleModule):
    """Ansible's module, whose result can always be written."""

    def exit_json(self, **kwargs: Any) -> None:
        """End with a result."""
        super().exit_json(**printable(kwargs))

    def fail_json(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """End with an error."""
        super().fail_json(printable(msg), *args, **printable(kwargs))
