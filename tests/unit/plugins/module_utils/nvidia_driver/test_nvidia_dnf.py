# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver as RPMs: what dnf itself makes of a made-up repository, on a host that is a folder.

The packages are empty and made here; names and dependencies are those of NVIDIA's for RHEL 9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import dnf
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver import plan as driver
from ansible_collections.onprem.deepseek.plugins.module_utils.nvidia_driver.apt import (
    Package,
    Source,
)

TOOLS = ("dnf", "rpm", "rpmbuild", "createrepo_c", "modifyrepo_c")
HAVE_TOOLS = os.geteuid() == 0 and all(shutil.which(tool) for tool in TOOLS)
with_dnf = pytest.mark.skipif(not HAVE_TOOLS, reason="needs root, dnf, rpm and createrepo-c")

KERNEL = "5.14.0-570.12.1.el9_6.x86_64"
OLD, NEW, PATCHED = "570.172.08", "580.95.05", "580.105.08"

HEAD = """\
Name: {name}
{epoch}
Version: {version}
Release: {release}
Summary: Empty
License: MIT
{requires}
%description
Empty.
"""
PART = """\
%package -n {name}
Summary: Empty
{requires}
%description -n {name}
Empty.
%files -n {name}
"""


def spec(name: str, version: str, release: str, epoch: int, parts: dict[str, Sequence[str]]) -> str:
    """A source package of empty packages, with lines of dependencies by package."""
    texts = [
        HEAD.format(
            name=name,
            version=version,
            release=release,
            epoch=f"Epoch: {epoch}" if epoch else "",
            requires="\n".join(parts.get(name, ())),
        )
    ]
    if name in parts:
        texts.append("%files\n")
    texts += [
        PART.format(name=part, requires="\n".join(lines))
        for part, lines in parts.items()
        if part != name
    ]
    return "".join(texts)


def driver_spec(version: str) -> str:
    same = f"= 3:{version}"
    module = [
        f"Provides: nvidia-kmod {same}",
        f"Requires: nvidia-kmod-common {same}",
        "Requires: dkms",
    ]
    return spec(
        "nvidia-driver",
        version,
        "1.el9",
        3,
        {
            "nvidia-driver-cuda": [
                f"Requires: nvidia-driver-cuda-libs {same}",
                f"Requires: nvidia-kmod-common {same}",
                f"Requires: nvidia-persistenced {same}",
            ],
            "nvidia-driver-cuda-libs": [f"Requires: libnvidia-ml {same}"],
            "libnvidia-ml": [],
            "nvidia-persistenced": [],
            "nvidia-modprobe": [],
            "nvidia-kmod-common": [f"Requires: nvidia-kmod {same}"],
            "kmod-nvidia-open-dkms": [*module, "Conflicts: kmod-nvidia-latest-dkms"],
            "kmod-nvidia-latest-dkms": [*module, "Conflicts: kmod-nvidia-open-dkms"],
            "nvidia-fabricmanager" if version > "580" else "nvidia-fabric-manager": [],
        },
    )


def kernel_spec(release: str) -> str:
    kernel = ["Provides: installonlypkg(kernel)", "Provides: kernel-core-uname-r = " + release]
    full = f"= 5.14.0-{release}"
    return spec(
        "kernel",
        "5.14.0",
        release,
        0,
        {
            "kernel-core": kernel,
            "kernel-devel": ["Provides: installonlypkg(kernel)"],
            "kernel-devel-matched": [
                f"Requires: kernel-devel {full}",
                f"Requires: kernel-core {full}",
            ],
        },
    )


def command(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words} {done.stdout} {done.stderr}"
    return done.stdout + done.stderr


def publish(folder: Path, specs: Sequence[str], stream: bool = False) -> Path:
    """Build packages, and make a repository of them; *stream* hides them in one of modularity."""
    for number, text in enumerate(specs):
        path = folder / f"{number}.spec"
        path.write_text(text)
        command(
            "rpmbuild", "-bb", "--quiet", "--target", "x86_64",
            "--define", f"_topdir {folder}/build",
            "--define", f"_rpmdir {folder}/rpms", "--define", "_build_id_links none", path,
        )  # fmt: skip
    repository = folder / "rpms"
    command("createrepo_c", "--quiet", repository)
    if stream:
        listing = command(
            "rpm", "--query", "--package",
            "--queryformat", "- %{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\n",
            *sorted(repository.rglob("*.rpm")),
        )  # fmt: skip
        modules = folder / "modules.yaml"
        indented = "".join(
            f"      {line}\n" for line in listing.splitlines() if line.startswith("-")
        )
        modules.write_text(
            "---\ndocument: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
            "  stream: latest\n  version: 1\n  context: c0ffee00\n  arch: x86_64\n"
            "  summary: Driver\n  description: Driver\n  license:\n    module: [MIT]\n"
            "  artifacts:\n    rpms:\n"
            f"{indented}...\n"
        )
        command("modifyrepo_c", "--mdtype=modules", modules, repository / "repodata")
    return repository


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """NVIDIA's with three versions in a stream, and RHEL's with two kernels."""
    nvidia, rhel = tmp_path_factory.mktemp("nvidia"), tmp_path_factory.mktemp("rhel")
    tools = {"python3-dnf-plugin-versionlock": (), "dkms": (), "bash": ()}
    return {
        "nvidia": publish(nvidia, [driver_spec(one) for one in (OLD, NEW, PATCHED)], stream=True),
        "rhel": publish(
            rhel,
            [
                spec("base", "1", "1.el9", 0, {name: list(lines) for name, lines in tools.items()}),
                kernel_spec("570.12.1.el9_6"),
                kernel_spec("570.30.1.el9_6"),
            ],
        ),
    }


class Host:
    """A RHEL 9 below a folder, with an H100 and the kernel of an older day."""

    def __init__(self, folder: Path, repositories: dict[str, Path]) -> None:
        self.root, self.sysfs, self.folder = folder / "root", folder / "sys", folder / "asked"
        self.repositories = repositories
        self.commands: list[Sequence[str]] = []
        self.dkms = ""
        self.write("etc/os-release", 'ID="rhel"\nVERSION_ID="9.6"\n')
        self.write("etc/dnf/dnf.conf", "[main]\ngpgcheck=1\n")
        self.write("etc/dnf/vars/releasever", "9\n")
        self.write("etc/dnf/vars/basearch", "x86_64\n")
        self.write(
            "etc/dnf/plugins/versionlock.conf",
            "[main]\nenabled = 1\nlocklist = /etc/dnf/plugins/versionlock.list\n",
        )
        self.write("etc/pki/nvidia.pub", "a key\n")
        self.write(
            "etc/yum.repos.d/redhat.repo",
            f"[baseos]\nname=b\nbaseurl=file://{repositories['rhel']}\ngpgcheck=0\n",
        )
        gpu = self.sysfs / "bus" / "pci" / "devices" / "0000:3b:00.0"
        gpu.mkdir(parents=True)
        for name, text in {"vendor": "0x10de", "device": "0x2330", "class": "0x030200"}.items():
            (gpu / name).write_text(f"{text}\n")
        self.install("rhel", f"kernel-core-{KERNEL}", "bash-1-1.el9.x86_64")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def install(self, repository: str, *names: str) -> None:
        """Note packages as installed."""
        files = [self.repositories[repository] / "x86_64" / f"{name}.rpm" for name in names]
        command(
            "rpm", "--root", self.root, "--install", "--justdb", "--nodeps", "--noscripts", *files
        )

    def have_driver(self, version: str, module: str = "kmod-nvidia-open-dkms") -> None:
        """Have a whole driver, locked, as the role leaves it."""
        parts = (
            module, "nvidia-driver-cuda", "nvidia-driver-cuda-libs", "libnvidia-ml",
            "nvidia-persistenced", "nvidia-modprobe", "nvidia-kmod-common",
        )  # fmt: skip
        self.install("nvidia", *(f"{part}-{version}-1.el9.x86_64" for part in parts))
        self.install("rhel", "dkms-1-1.el9.x86_64", "python3-dnf-plugin-versionlock-1-1.el9.x86_64")
        self.install(
            "rhel", *(f"{part}-{KERNEL}" for part in ("kernel-devel", "kernel-devel-matched"))
        )
        self.write(f"lib/modules/{KERNEL}/build/Makefile", "")
        self.lock(self.examine())

    def lock(self, report: driver.Report) -> None:
        text = f"# BEGIN {driver.OWN}\n{report.preferences}# END {driver.OWN}\n"
        self.write("etc/dnf/plugins/versionlock.list", text)
        self.write(f"etc/yum.repos.d/{driver.OWN}.repo", report.sources)

    def run(self, words: Sequence[str]) -> tuple[int, str, str]:
        self.commands.append(words)
        if words[0] == "dkms":
            return 0, self.dkms, ""
        done = subprocess.run(list(words), capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def examine(self, **wish: object) -> driver.Report:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        uri = f"file://{self.repositories['nvidia']}"
        asked = driver.Wish(
            kernel_release=KERNEL, repository=Source(uri, ("/",), (), "/etc/pki/nvidia.pub")
        )
        wished = replace(asked, **wish)  # type: ignore[arg-type]
        return driver.examine(wished, self.run, self.root, self.sysfs, self.folder)

    def dnf(self, *words: str) -> str:
        """What dnf itself would do on this host, whose files are at their places."""
        listed = self.folder / "plugins"
        listed.mkdir(parents=True, exist_ok=True)
        lock = self.root / "etc/dnf/plugins/versionlock.list"
        (listed / "versionlock.conf").write_text(f"[main]\nenabled=1\nlocklist={lock}\n")
        done = subprocess.run(
            [
                "dnf", f"--installroot={self.root}", f"--config={self.root}/etc/dnf/dnf.conf",
                f"--setopt=reposdir={self.root}/etc/yum.repos.d",
                f"--setopt=pluginconfpath={listed}", f"--setopt=cachedir={self.folder}/dnf",
                "--releasever=9", "--forcearch=x86_64", *words,
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture
def host(tmp_path: Path, repositories: dict[str, Path]) -> Host:
    return Host(tmp_path, repositories)


def only(report: driver.Report) -> driver.Problem:
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """All files but the index that SQLite shares between readers of the database of packages."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


# Text


def test_installed_packages_and_what_is_locked() -> None:
    output = (
        "nvidia-driver-cuda\t3:580.95.05-1.el9\tx86_64\tnvidia-driver-580.95.05-1.el9.src.rpm\n"
        "nvidia-modprobe\t3:580.95.05-1.el9\tx86_64\tnvidia-modprobe-580.95.05-1.el9.src.rpm\n"
        "kernel-core\t0:5.14.0-570.el9\tx86_64\tkernel-5.14.0-570.el9.src.rpm\n"
        "kernel-core\t0:5.14.0-503.el9\tx86_64\tkernel-5.14.0-503.el9.src.rpm\n"
        "gpg-pubkey\t0:d42d0685-62589a51\t(none)\t(none)\n"
    )
    locks = dnf.parse_locks(
        "# comment\n!kernel-core-0:5*\nnvidia-driver-cuda-3:580.95.05-1.el9.*\n"
    )
    found = dnf.parse_installed(output, locks)
    assert found["nvidia-driver-cuda"] == Package(
        "nvidia-driver-cuda", "3:580.95.05-1.el9", "nvidia-driver", True
    )
    assert found["nvidia-modprobe"].held is False
    assert found["kernel-core"].version == "0:5.14.0-503.el9 0:5.14.0-570.el9"
    assert found["kernel-core"].is_kernel
    assert [one.name for one in found.values() if one.is_driver] == [
        "nvidia-driver-cuda",
        "nvidia-modprobe",
    ]


def test_the_block_of_the_role_is_told_from_the_rest() -> None:
    text = "a-0:1-1.*\n# BEGIN x\nb-0:1-1.*\n# END x\nc-0:1-1.*\n"
    assert dnf.without_block(text, "x") == "a-0:1-1.*\nc-0:1-1.*\n"
    assert dnf.without_block(text, "y") == text


@pytest.mark.parametrize(
    ("name", "version", "supported"),
    [
        ("rhel", "9.6", True),
        ("rocky", "9.4", True),
        ("almalinux", "9.5", True),
        ("ol", "9.6", True),
        ("rhel", "10.0", False),
        ("centos", "9", False),
    ],
)
def test_which_systems_are_supported(name: str, version: str, supported: bool) -> None:
    said, system = driver.system_of(f'ID="{name}"\nVERSION_ID="{version}"\n')
    assert said == f"{name} {version}"
    assert (system is not None) is supported


# Plans that dnf makes


@with_dnf
def test_the_first_driver_is_the_newest_and_brings_what_it_needs(host: Host) -> None:
    before = everything(host.root)
    report = host.examine()
    assert report.problems == ()
    assert (report.needed, report.kernel_module, report.version) == (True, "open", PATCHED)
    assert report.versions == (PATCHED, NEW, OLD)
    assert f"kmod-nvidia-open-dkms-3:{PATCHED}-1.el9" in report.wanted
    assert report.wanted[-1] == f"kernel-devel-matched-{KERNEL}"
    changes = {change.name: change.new for change in report.transaction.changes}
    assert changes["libnvidia-ml"] == f"3:{PATCHED}-1.el9"
    assert changes["kernel-devel"] == "0:5.14.0-570.12.1.el9_6"
    assert {"dkms", "python3-dnf-plugin-versionlock"} <= changes.keys()
    assert not {"kernel-core", "bash"} & changes.keys()
    # dependencies too, and nothing else
    assert [line.rpartition("-3:")[0] for line in report.preferences.splitlines()] == [
        "kmod-nvidia-open-dkms", "libnvidia-ml", "nvidia-driver-cuda", "nvidia-driver-cuda-libs",
        "nvidia-kmod-common", "nvidia-modprobe", "nvidia-persistenced",
    ]  # fmt: skip
    assert "gpgcheck=1\ngpgkey=file:///etc/pki/nvidia.pub\n" in report.sources
    assert everything(host.root) == before


@with_dnf
def test_an_exact_version_and_the_proprietary_module(host: Host) -> None:
    report = host.examine(version=NEW, kernel_module="proprietary")
    assert (report.version, report.problems) == (NEW, ())
    names = {change.name for change in report.transaction.changes}
    assert "kmod-nvidia-latest-dkms" in names
    assert "kmod-nvidia-open-dkms" not in names
    assert host.examine(version=f"{NEW}-1.el9").version == NEW


@with_dnf
def test_a_whole_driver_is_left_alone_and_repositories_are_not_asked(host: Host) -> None:
    host.have_driver(NEW)
    host.commands.clear()
    report = host.examine()
    assert (report.needed, report.version, report.problems) == (False, NEW, ())
    assert [package.name for package in report.installed if not package.held] == []
    assert len(report.installed) == 7
    assert not [one for one in host.commands if one[0].endswith("python3")]


@with_dnf
def test_a_host_is_not_locked_without_what_reads_the_lock(host: Host) -> None:
    host.have_driver(NEW)
    host.write("etc/dnf/plugins/versionlock.conf", "[main]\nenabled = 0\n")
    assert not [package for package in host.examine().installed if package.held]


@with_dnf
@pytest.mark.parametrize("version", [OLD, PATCHED])
def test_another_version_moves_everything_although_it_is_locked(host: Host, version: str) -> None:
    host.have_driver(NEW)
    report = host.examine(version=version)
    assert (report.needed, report.version, report.problems) == (True, version, ())
    moved = {change.name: change for change in report.transaction.changes}
    assert len(moved) == 7
    assert {change.new for change in moved.values()} == {f"3:{version}-1.el9"}
    assert NEW not in report.preferences


@with_dnf
def test_the_other_module_takes_the_place_of_the_one_that_is_there(host: Host) -> None:
    host.have_driver(NEW, "kmod-nvidia-latest-dkms")
    assert host.examine().kernel_module == "proprietary"
    report = host.examine(kernel_module="open", version=NEW)
    assert report.problems == ()
    assert report.unwanted == ("kmod-nvidia-latest-dkms",)
    assert {(one.name, bool(one.new)) for one in report.transaction.changes} == {
        ("kmod-nvidia-latest-dkms", False),
        ("kmod-nvidia-open-dkms", True),
    }
    assert "kmod-nvidia-latest" not in report.preferences


@with_dnf
@pytest.mark.parametrize(
    ("version", "name"), [(NEW, "nvidia-fabricmanager"), (OLD, "nvidia-fabric-manager")]
)
def test_fabric_manager_of_the_drivers_version_whatever_it_is_called(
    host: Host, version: str, name: str
) -> None:
    report = host.examine(version=version, fabric_manager="present")
    assert report.problems == ()
    assert f"{name}-3:{version}-1.el9" in report.wanted
    assert f"{name}-3:{version}-1.el9.*" in report.preferences


# What upgrades a host


@with_dnf
def test_each_protection_keeps_the_driver_alone(host: Host) -> None:
    host.have_driver(NEW)
    lock = host.root / "etc/dnf/plugins/versionlock.list"
    own = host.root / f"etc/yum.repos.d/{driver.OWN}.repo"
    would = f"3:{PATCHED}-1.el9"
    assert would not in host.dnf("upgrade", "--assumeno")
    assert would not in host.dnf("upgrade", "--assumeno", f"--enablerepo={driver.OWN}")
    kept = lock.read_text()
    lock.write_text("")
    assert would not in host.dnf("upgrade", "--assumeno")
    own.write_text(own.read_text().replace("enabled=0", "enabled=1"))
    assert would in host.dnf("upgrade", "--assumeno")
    lock.write_text(kept)
    assert would not in host.dnf("upgrade", "--assumeno")


@with_dnf
def test_packages_that_nobody_signed_are_not_installed(host: Host) -> None:
    host.lock(host.examine())
    said = host.dnf(f"--enablerepo={driver.OWN}", "install", "--assumeyes", "nvidia-modprobe")
    assert "GPG check FAILED" in said or "not signed" in said or "Invalid" in said, said


# What is refused


@with_dnf
def test_a_version_that_nobody_has(host: Host) -> None:
    problem = only(host.examine(version="999.1"))
    assert problem.where == "nvidia_driver_version"
    assert problem.remedy.endswith("another mirror in nvidia_driver_repository")
    assert f"{PATCHED}, {NEW}, {OLD}" in problem.remedy


@with_dnf
def test_a_kernel_without_headers(host: Host) -> None:
    problem = only(host.examine(kernel_release="5.14.0-1.custom.x86_64"))
    assert "no source has the package kernel-devel-matched-5.14.0-1.custom.x86_64" in problem.what


@with_dnf
def test_a_kernel_that_would_be_installed(host: Host) -> None:
    problem = only(host.examine(kernel_release="5.14.0-570.30.1.el9_6.x86_64"))
    assert problem.what == "installing the driver would change the kernel (kernel-core)"


@with_dnf
def test_a_host_without_a_repository_that_has_dkms(host: Host, tmp_path: Path) -> None:
    host.write("etc/dnf/dnf.conf", "[main]\nexcludepkgs=dkms\n")
    problem = only(host.examine())
    assert problem.where == "dnf install --assumeno"
    assert "cannot be installed together" in problem.what
    assert "dkms" in problem.what


@with_dnf
def test_a_mirror_that_does_not_answer(host: Host) -> None:
    source = Source("file:///nowhere", ("/",), (), "/etc/pki/nvidia.pub")
    problems = host.examine(repository=source).problems
    assert {problem.where for problem in problems} == {
        "nvidia_driver_repository",
        "nvidia_driver_version",
    }
    assert "deepseek-nvidia-driver: " in problems[0].what


@with_dnf
@pytest.mark.parametrize("keyring", ["", "/etc/pki/none.pub"])
def test_a_repository_without_a_key(host: Host, keyring: str) -> None:
    uri = f"file://{host.repositories['nvidia']}"
    problem = only(host.examine(repository=Source(uri, ("/",), (), keyring)))
    assert problem.where == "nvidia_driver_repository_keyring"


@with_dnf
def test_packages_that_somebody_else_locks(host: Host) -> None:
    host.have_driver(NEW)
    lock = host.root / "etc/dnf/plugins/versionlock.list"
    lock.write_text("".join(line for line in lock.read_text().splitlines(True) if line[0] != "#"))
    problem = only(host.examine(version=PATCHED))
    assert problem.where == "/etc/dnf/plugins/versionlock.list"
    assert problem.remedy.startswith(
        "Ask who holds them and why; then run dnf versionlock delete kmod-nvidia-open-dkms"
    )


@with_dnf
def test_an_installation_that_was_interrupted(host: Host) -> None:
    host.have_driver(NEW)
    host.install("nvidia", f"nvidia-modprobe-{PATCHED}-1.el9.x86_64")
    problem = host.examine().problems[0]
    assert problem.where == "rpm --query --all"
    assert f"nvidia-modprobe in 3:{PATCHED}-1.el9 and 3:{NEW}-1.el9" in problem.what


@with_dnf
def test_a_host_whose_dnf_cannot_even_begin(host: Host) -> None:
    host.write("etc/dnf/dnf.conf", "not a configuration\n")
    assert host.examine().problems[0].where == "nvidia_driver_repository"
