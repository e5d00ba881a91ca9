# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conditions and texts that an action evaluates by itself, with ansible-core before 2.19 and since."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError

from ansible_collections.onprem.deepseek.plugins.module_utils.common.require import EvaluationError
from ansible_collections.onprem.deepseek.plugins.plugin_utils.templates import plain

# What Ansible puts before the words of what failed.
_PREFIXES = re.compile(
    r"^(?:Error while evaluating conditional: |The \w+ plugin '[^']*' failed: |\{\{.*?\}\}: )+"
)


class Expressions:
    """Evaluates with the variables of a task."""

    def __init__(self, templar: Any, variables: Mapping[str, Any]) -> None:
        self._templar = templar
        self._variables = variables

    def holds(self, condition: Any, more: Mapping[str, Any]) -> bool:
        """Whether a condition is true. Raises EvaluationError."""
        if isinstance(condition, bool):
            return condition
        templar = self._with(more)
        try:
            if hasattr(templar, "evaluate_conditional"):
                return bool(templar.evaluate_conditional(condition))
            # Before 2.19, where only such a text is known not to be one to evaluate.
            if hasattr(condition, "__UNSAFE__"):
                raise EvaluationError(f"{condition} is no expression of a playbook or role")
            said = templar.template(f"{{% if {condition} %}}True{{% else %}}False{{% endif %}}")
            return str(said) == "True"
        except (AnsibleError, ValueError, TypeError) as error:
            raise EvaluationError(_words(error)) from error

    def fill(self, template: Any, more: Mapping[str, Any]) -> Any:
        """Return the value of a template. Raises EvaluationError."""
        try:
            return plain(self._with(more).template(template))
        except (AnsibleError, ValueError, TypeError) as error:
            raise EvaluationError(_words(error)) from error

    def _with(self, more: Mapping[str, Any]) -> Any:
        if not more:
            return self._templar
        return self._templar.copy_with_new_env(available_variables={**self._variables, **more})


def _words(error: Exception) -> str:
    return _PREFIXES.sub("", " ".join(str(error).split()))
