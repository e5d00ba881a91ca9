# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files of this collection a program on a host needs: its own, and those that it imports, however far away."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator

# A program on a host runs without Ansible.
_ABSENT = ("ansible", "ansible_collections")


class ClosureError(Exception):
    """A program cannot be installed, since something that it imports is not there."""


def import_closure(root: str, module: str) -> list[str]:
    """Return the files below *root*, as sorted relative paths, that *module* (``package.name``) is made of.

    Raises ClosureError if an import leads out of *root*, to a file that is missing, or to Ansible.
    """
    open_files = [module.replace(".", "/") + ".py"]
    found: set[str] = set()
    while open_files:
        path = open_files.pop()
        if path not in found:
            found.add(path)
            open_files.extend(_imported(root, path))
    return sorted(found)


def _imported(root: str, path: str) -> Iterator[str]:
    try:
        with open(os.path.join(root, path), "rb") as stream:
            tree = ast.parse(stream.read(), path)
    except (OSError, SyntaxError, ValueError) as error:
        raise ClosureError(f"{path} cannot be read as a program: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            _refuse(path, [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            _refuse(path, [node.module or ""])
        elif isinstance(node, ast.ImportFrom):
            yield from _relative(root, path, node)


def _refuse(path: str, names: list[str]) -> None:
    for name in names:
        if name.partition(".")[0] in _ABSENT:
            raise ClosureError(
                f"{path} imports {name}, which is not there on a host: import by place (from .name), or not at all"
            )


def _relative(root: str, path: str, node: ast.ImportFrom) -> Iterator[str]:
    above = path.split("/")[: -node.level]
    if len(path.split("/")) < node.level:
        raise ClosureError(f"{path}, line {node.lineno}: the import leads out of the packages")
    base = above + (node.module.split(".") if node.module else [])
    itself = "/".join(base) + ".py"
    is_module = bool(node.module) and os.path.isfile(os.path.join(root, itself))
    if is_module:
        yield itself
    for alias in node.names:
        file = "/".join([*base, alias.name]) + ".py"
        if os.path.isfile(os.path.join(root, file)):
            yield file
        elif not is_module:
            raise ClosureError(f"{path}, line {node.lineno}: there is no {file}, nor {itself}")
