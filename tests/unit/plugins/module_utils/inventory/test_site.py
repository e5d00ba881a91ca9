# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight refuses of an inventory, and that it refuses nothing that is right."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.onprem.deepseek.plugins.module_utils.checkpoint.precisions import (
    EXPORTED,
    PREPARED,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory import (
    release_findings,
    releases,
    role_variables,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.flavours import FLAVOURS
from ansible_collections.onprem.deepseek.plugins.module_utils.inventory.site_variables import (
    HOST_VARIABLES,
    Host,
    address_problems,
    copies,
    group_problems,
    only_mounted,
    release_problems,
    variable_problems,
    variables,
    worker_problems,
)
from ansible_collections.onprem.deepseek.plugins.module_utils.pkcs11 import custody

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
    "storage-2": {"management": "10.0.1.4", "storage": "fd00:0::4"},
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
    "deepseek_pkcs11_module": "/usr/lib/softhsm/libsofthsm2.so",
    "deepseek_store_dir": "/srv/deepseek/store",
    "deepseek_store_sources": ["https://10.0.4.3:8443"],
    "deepseek_venv_dir": "/opt/deepseek/serving",
    "deepseek_storage_port": 8443,
    "deepseek_inference_port": 8000,
    "deepseek_gateway_port": 443,
}


def host(name: str, **changes: Any) -> Host:
    """A host on which nothing is wrong, but for the changes."""
    addresses = ADDRESSES[name]
    right = Host(
        name=name,
        addresses=addresses,
        variables={**SITE, "deepseek_zone_addresses": addresses},
    )
    return dataclasses.replace(right, **changes)


def found(*changed: Host, groups: dict[str, list[str]] | None = None) -> list[str]:
    """The problems of a site in which these hosts are as given and the others are right."""
    by_name = {one.name: one for one in changed}
    hosts = [by_name.get(name) or host(name) for name in ADDRESSES]
    problems = [
        *group_problems(groups or GROUPS, only_mounted(hosts), copies(hosts)),
        *variable_problems(hosts),
        *address_problems(groups or GROUPS, hosts),
        *(problem for one in hosts for problem in worker_problems(one)),
        *release_problems(groups or GROUPS, hosts),
    ]
    return [f"{problem.where}: {problem.what}. {problem.remedy}." for problem in problems]


def everywhere(**variables: Any) -> list[Host]:
    """All hosts with other site variables."""
    return [host(n, variables={**host(n).variables, **variables}) for n in ADDRESSES]


def test_a_site_without_faults_has_no_problems() -> None:
    assert found() == []


def test_a_mounted_store_needs_no_storage_hosts() -> None:
    without = {**GROUPS, "storage": []}
    assert found(*everywhere(deepseek_store_sources=["file:///mnt/models"]), groups=without) == []
    mixed = everywhere(deepseek_store_sources=["file:///mnt/models", "https://10.0.0.1:8443"])
    (problem,) = found(*mixed, groups=without)
    assert problem.startswith("group storage: it has no hosts")


@pytest.mark.parametrize("number", [1, 2])
def test_a_trial_has_as_many_storage_hosts_as_it_wants_copies(number: int) -> None:
    groups = {**GROUPS, "storage": GROUPS["storage"][:number]}
    assert found(*everywhere(deepseek_copies=number), groups=groups) == []
    (problem,) = found(*everywhere(deepseek_copies=number + 1), groups=groups)
    assert f"every model is kept on {number + 1}. Add 1 host to the group" in problem


@pytest.mark.parametrize("number", [0, 4, True, "many", 1.5])
def test_a_number_of_copies_that_cannot_be_is_named_and_three_are_wanted(number: Any) -> None:
    (problem,) = found(*everywhere(deepseek_copies=number))
    assert problem.startswith(f"deepseek_copies: it is {number!r}")


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            {"storage": ["storage-1", "storage-2"]},
            "group storage: it has 2 hosts, and every model is kept on 3. Add 1 host to",
        ),
        (
            {"storage": []},
            "group storage: it has no hosts, and every model is kept on 3. Add 3 hosts",
        ),
        ({"release": []}, "group release: it has no hosts"),
        (
            {"release": ["inference-1", "storage-1"]},
            "group release: it has 2 hosts, and exactly one",
        ),
        ({"gateway": []}, "group gateway: it has no host"),
        ({"inference": []}, "group inference: it has no host"),
    ],
)
def test_groups(groups: dict[str, list[str]], says: str) -> None:
    (only,) = found(groups={**GROUPS, **groups})
    assert only.startswith(says)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deepseek_service_name", "Deepseek.Example.Org"),
        ("deepseek_service_name", "-deepseek"),
        ("deepseek_service_name", ["deepseek.example.org"]),
        ("deepseek_model_name", "../etc"),
        ("deepseek_model_name", ""),
        ("deepseek_model_version", 1.0),
        ("deepseek_model_version", "1/0"),
        ("deepseek_store_dir", "srv/store"),
        ("deepseek_store_dir", "/srv/../etc"),
        ("deepseek_store_dir", "/srv/my store"),
        ("deepseek_store_sources", []),
        ("deepseek_store_sources", "https://10.0.4.3:8443"),
        ("deepseek_store_sources", ["http://10.0.4.3:8443"]),
        ("deepseek_storage_port", 0),
        ("deepseek_storage_port", 65536),
        ("deepseek_storage_port", True),
        ("deepseek_gateway_port", "https"),
        ("deepseek_inference_port", 443),
    ],
)
def test_variables_that_are_refused(name: str, value: Any) -> None:
    (only,) = found(*everywhere(**{name: value}))
    assert only.startswith(f"{name}: it is {value!r}. It must be ")


def test_a_variable_that_is_missing_somewhere_names_the_hosts() -> None:
    lacking = {name: value for name, value in SITE.items() if name != "deepseek_tls_dir"}
    (only,) = found(host("storage-2", variables=lacking))
    assert only == "deepseek_tls_dir: it is not set for storage-2. Set it in group_vars/all."


def test_hosts_must_agree() -> None:
    (only,) = found(host("storage-2", variables={**SITE, "deepseek_model_version": "2.0.0"}))
    assert only.startswith("deepseek_model_version: hosts differ: ")
    assert "'2.0.0' for storage-2" in only


def test_a_misspelt_variable_is_named_with_what_was_meant() -> None:
    (only,) = found(host("gateway-1", variables={**SITE, "deepseek_modle_name": "x"}))
    assert "Did you mean deepseek_model_name" in only


def test_two_services_on_one_port() -> None:
    (only,) = found(*everywhere(deepseek_storage_port=8000))
    assert only.startswith("deepseek_storage_port: it is 8000, as deepseek_inference_port is")


def test_workers_are_checked_host_by_host() -> None:
    right = {**SITE, "deepseek_workers": [{"name": "a"}, {"name": "b"}]}
    assert found(host("inference-1", variables=right)) == []
    wrong = {**SITE, "deepseek_workers": [{"name": "a", "cpus": "x"}]}
    (only,) = found(host("inference-1", variables=wrong))
    assert only == (
        "inference-1, deepseek_workers: worker 1: its cpus are 'x': 'x' is no processor and no "
        "range of processors. Correct it in the host's variables."
    )


def test_a_worker_does_not_listen_where_the_store_is_served() -> None:
    taken = {**SITE, "deepseek_workers": [{"name": "a", "port": 8443}]}
    (only,) = found(host("inference-1", variables=taken))
    assert "worker a has port 8443, as deepseek_storage_port is" in only


PRECISIONS = [
    {"name": "fp16", "held_out": "/srv/import/held-out.jsonl"},
    {"name": "int8", "held_out": "/srv/h", "calibration": "/srv/c", "min_top1_agreement": 0.9},
]


def test_precisions_may_be_left_out_but_not_on_some_hosts() -> None:
    both = {"deepseek_precisions": PRECISIONS, "deepseek_precision": "int8"}
    assert found(*everywhere(**both)) == []
    lines = found(host("storage-2", variables={**SITE, **both}))
    assert [line.split(":")[0] for line in lines] == ["deepseek_precisions", "deepseek_precision"]
    assert "it is not set for gateway-1, inference-1, storage-1, storage-3" in lines[0]


@pytest.mark.parametrize("flavour", ["onnxruntime", "tensorrt", "tensorrt_rtx"])
def test_an_engine_needs_a_prepared_graph(flavour: str) -> None:
    (only,) = found(*everywhere(deepseek_engine_flavour=flavour))
    assert only.startswith(f"deepseek_engine_flavour: it is {flavour!r}, and deepseek_precision is")
    prepared = {"deepseek_precisions": PRECISIONS, "deepseek_precision": "int8"}
    assert found(*everywhere(deepseek_engine_flavour=flavour, **prepared)) == []


def test_a_driver_is_ours_or_not() -> None:
    assert found(*everywhere(deepseek_manage_gpu_driver=True)) == []
    (only,) = found(*everywhere(deepseek_manage_gpu_driver="managed"))
    assert only.startswith("deepseek_manage_gpu_driver: it is 'managed'. It must be true or false")


def test_without_a_graph_nothing_is_made_from_it() -> None:
    assert found(*everywhere(deepseek_export=False, deepseek_engine_flavour="none")) == []
    (only,) = found(*everywhere(deepseek_export=False, deepseek_precisions=PRECISIONS))
    assert only == (
        f"deepseek_precisions: it is {PRECISIONS!r}, which needs a graph, and deepseek_export is "
        "false. Leave it out, or deepseek_export."
    )
    (only,) = found(*everywhere(deepseek_export="no"))
    assert only.startswith("deepseek_export: it is 'no'. It must be true or false")


@pytest.mark.parametrize("precision", [None, "fp32", "int8"])
def test_the_cuda_provider_runs_some_precisions(precision: str | None) -> None:
    asked = {"deepseek_engine_flavour": "onnxruntime_cuda", "deepseek_precisions": PRECISIONS}
    (only,) = found(*everywhere(**asked, deepseek_precision=precision or "fp32"))
    assert only == (
        f"deepseek_engine_flavour: it is 'onnxruntime_cuda', and deepseek_precision is "
        f"{precision or 'fp32'!r}. Set deepseek_precision to one of fp16, bf16."
    )
    assert found(*everywhere(**asked, deepseek_precision="fp16")) == []


@pytest.mark.parametrize(("flavour", "problems"), [("none", 0), (None, 0), ("cuda", 1), (["x"], 1)])
def test_flavours_that_are_none(flavour: Any, problems: int) -> None:
    lines = found(*everywhere(deepseek_engine_flavour=flavour))
    assert len(lines) == problems


@pytest.mark.parametrize("value", ["int3", "", ["fp32"], 8])
def test_precisions_that_cannot_be_served(value: Any) -> None:
    (only,) = found(*everywhere(deepseek_precision=value))
    assert only.startswith(f"deepseek_precision: it is {value!r}. It must be one of fp32, fp16")


@pytest.mark.parametrize("value", ["int8", ["int8"], [{"held_out": "/h"}], [{"name": "fp32"}], {}])
def test_precisions_that_cannot_be_published(value: Any) -> None:
    lines = found(*everywhere(deepseek_precisions=value))
    if value == {}:
        assert "It must be a list" in lines[0]
    else:
        assert lines[0].startswith(f"deepseek_precisions: it is {value!r}. It must be a list of")


def test_what_is_served_must_be_published() -> None:
    (only,) = found(*everywhere(deepseek_precision="fp8", deepseek_precisions=PRECISIONS))
    assert only == (
        "deepseek_precision: it is 'fp8', which deepseek_precisions does not list. "
        "Add it there with its texts, or serve 'fp32'."
    )
    assert found(*everywhere(deepseek_precision="fp32")) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (8, "deepseek_minimums: it is 8. It must be a mapping."),
        (
            {"memroy_gb": 1},
            "deepseek_minimums.memroy_gb: there is no such minimum. Did you mean memory_gb.",
        ),
        (
            {"clock_synchronised": 1},
            "deepseek_minimums.clock_synchronised: it is 1. It must be true, or null.",
        ),
    ],
)
def test_minimums_that_cannot_be(given: Any, says: str) -> None:
    assert found(*everywhere(deepseek_minimums=given)) == [says]


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (None, "storage-1: deepseek_zone_addresses is not set"),
        ("10.0.1.3", "storage-1: deepseek_zone_addresses is no mapping"),
        (
            {"management": "10.0.1.3"},
            "storage-1: it has no address in the storage zone, and is in group storage",
        ),
        (
            {**ADDRESSES["storage-1"], "fabric": "10.0.4.3"},
            "storage-1, deepseek_zone_addresses.fabric: there is no such zone",
        ),
        (
            {**ADDRESSES["storage-1"], "storage": "10.0.4"},
            "storage-1, deepseek_zone_addresses.storage: '10.0.4' is not an IP",
        ),
    ],
)
def test_addresses(addresses: Any, says: str) -> None:
    (only,) = found(host("storage-1", addresses=addresses))
    assert only.startswith(says)


def test_two_hosts_with_one_address() -> None:
    shared = {**ADDRESSES["storage-1"], "storage": "10.0.4.5"}
    shared_by = "storage-1, storage-3: they share the address 10.0.4.5. Give each host its own."
    assert shared_by in found(host("storage-1", addresses=shared))


def test_everything_is_found_at_once() -> None:
    lines = found(
        host("gateway-1", addresses={}),
        host("storage-1", addresses=None),
        host("storage-2", variables={**SITE, "deepseek_x": 1}),
        groups={**GROUPS, "storage": ["storage-1", "storage-2"]},
    )
    assert len(lines) == 6
    assert all(re.fullmatch(r".+: .+\. .+\.", line) for line in lines), "where, what, remedy"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@given(addresses=anything, values=st.dictionaries(st.sampled_from(sorted(variables())), anything))
def test_whatever_is_written_is_answered(addresses: Any, values: dict[str, Any]) -> None:
    for line in found(host("storage-1", addresses=addresses, variables={**SITE, **values})):
        assert line.endswith(".")


def test_the_example_documents_every_site_variable_and_no_other() -> None:
    directory = ROOT / "inventories"
    written = (directory / "production.example/group_vars/all.yml").read_text()
    example = yaml.safe_load(written)
    lab = yaml.safe_load((directory / "lab/group_vars/all/site.yml").read_text())
    assert (
        {name for name in example if name.startswith("deepseek_")}
        == variables().keys() - {releases.LIST}
        == lab.keys()
    )
    (shown,) = re.findall(r"^#   deepseek_releases:\n(?:#    .*\n)+", written, re.MULTILINE)
    listed = yaml.safe_load(re.sub(r"^# ", "", shown, flags=re.MULTILINE))
    assert list(release_findings.list_problems(listed)) == []


@pytest.mark.parametrize(
    "file", ["production.example/group_vars/all.yml", "lab/group_vars/all/site.yml"]
)
def test_inventories_are_as_the_specification_says(file: str) -> None:
    values = yaml.safe_load((ROOT / "inventories" / file).read_text())
    options = role_variables.entry_point("preflight", "site")
    # what is templated, and what hosts have, is known when a run reads it
    given = {
        name: value for name, value in values.items() if name in options and "{{" not in str(value)
    }
    assert len(given) > 15
    left = {name: spec for name, spec in options.items() if name in given}
    validated = ArgumentSpecValidator(left).validate(given)
    assert validated.error_messages == []


def test_a_trial_on_one_host_with_one_address_has_no_problems() -> None:
    directory = ROOT / "inventories/poc"
    written = yaml.safe_load((directory / "hosts.yml").read_text())["all"]
    address = written["hosts"]["box"]["trial_address"]
    addresses = dict.fromkeys(written["hosts"]["box"]["deepseek_zone_addresses"], address)
    variables = dict(SITE)
    # what Ansible takes, the later file over the earlier one; templates are those of a site
    for file in sorted((directory / "group_vars/all").iterdir()):
        values = yaml.safe_load(file.read_text())
        variables |= {
            name: value
            for name, value in values.items()
            if name.startswith("deepseek_") and "{{" not in str(value)
        }
    box = Host("box", addresses, {**variables, "deepseek_zone_addresses": addresses})
    groups = {name: list(group["hosts"]) for name, group in written["children"].items()}
    problems = [
        *group_problems(groups, False, copies([box])),
        *variable_problems([box]),
        *address_problems(groups, [box]),
        *release_problems(groups, [box]),
    ]
    assert [str(one) for one in problems] == []


def test_the_specification_has_the_choices_of_the_code() -> None:
    options = role_variables.entry_point("preflight", "site")
    assert tuple(options["deepseek_engine_flavour"]["choices"]) == FLAVOURS
    assert tuple(options["deepseek_precision"]["choices"]) == (EXPORTED, *PREPARED)
    assert tuple(options["deepseek_accepted_key_risks"]["choices"]) == tuple(custody.RISKS)
    rules = release_findings.RULES
    assert {name for name in rules if f"C({name})" in str(options[releases.LIST])} == rules.keys()
    assert ", ".join(PREPARED) in variables()["deepseek_precisions"].rule
    assert set(HOST_VARIABLES) <= options.keys()
    for name, spec in options.items():
        said = spec["description"][-1]
        assert "choices" in spec or said.startswith("Must be "), name
