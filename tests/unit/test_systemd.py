"""The units say what the daemon relies on, and give it no more than it needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.base.arrival import IN_UNIT
from agent.base.unit_process import UNITS_VARIABLE
from agent.cloud.aws_worker import main as cloud_worker
from agent.cloud.identity import metadata_main
from agent.daemon.systemd_notify import EXTENSION_S
from agent.node.isolate.resource_limits import CHILD_DESCRIPTORS, DESCRIPTORS
from agent.report import hook_main
from agent.report.broker import main as broker_main
from agent.report.control.serve import LIMITS as CONTROL_LIMITS
from agent.report.http.serve import HTTP_LIMITS
from agent.report.web import listen_main
from agent.report.web import main as web_main

SYSTEMD = Path(__file__).parents[2] / "systemd"
SERVICE = (SYSTEMD / "ebs-agent.service").read_text()

EXPOSURE = {
    "ebs-agent.service": 4.5,
    "ebs-agent-cloud@.service": 1.5,
    "ebs-agent-mqtt@.service": 1.5,
    "ebs-agent-web@.service": 0.5,
    "ebs-agent-listen@.service": 1.5,
    "ebs-agent-metadata@.service": 1.4,
    # Programs of root's, which mount and use the network: what the agent had when it ran them itself.
    "ebs-agent-hook@.service": 5.2,
    "ebs-volumes-ready.service": 1.1,
    "ebs-volumes-late.service": 1.1,
}
"""What systemd 252 gives them. Lower is better; a change that raises one has to say why, here."""

FACES = {
    "cloud": ("ebs-agent-cloud", cloud_worker),
    "listen": ("ebs-agent-web", listen_main),
    "metadata": ("ebs-agent-cloud", metadata_main),
    "mqtt": ("ebs-agent-mqtt", broker_main),
    "web": ("ebs-agent-web", web_main),
}
"""What may use the network in a unit of its own: its user and its program."""
UNITS = sorted({*FACES, "hook"})
"""Those that the agent starts by sockets."""

IMPLY_MOUNT_NAMESPACE = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC"),
    *("ProtectProc", "ProcSubset", "ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelModules"),
    *("ProtectKernelLogs", "MountFlags", "RootDirectory", "RootImage", "TemporaryFileSystem", "BindPaths"),
    *(
        "BindReadOnlyPaths",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
    ),
    *("MountImages", "ExtensionImages", "LogNamespace", "IPCNamespacePath", "DynamicUser"),
)
"""Of systemd.exec(5), up to version 252."""


NEWER_THAN_249 = {
    *("ExitType", "RestrictFileSystems", "ExtensionDirectories", "OpenFile", "LogFilterPatterns"),
    *("RestartSteps", "RestartMaxDelaySec", "RestartMode", "MemoryZSwapMax", "MemoryPressureWatch"),
    *("DelegateSubgroup", "ImportCredential", "RootEphemeral", "SurviveFinalKillSignal", "ReloadSignal"),
    *("SetLoginEnvironment", "CPUSetPartition", "NFTSet", "PrivatePIDs"),
}
"""Of systemd's NEWS, 250 to 257. Ubuntu 22.04 has 249, Amazon Linux 2023 has 252."""


def find_settings(unit: str) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        settings.setdefault(name, []).append(value)
    return settings


def test_the_agent_lives_in_the_mount_namespace_of_the_host() -> None:
    """Nothing in its unit gives the agent a mount namespace of its own, in which its mounts would be lost."""
    assert not set(find_settings(SERVICE)) & set(IMPLY_MOUNT_NAMESPACE)


def test_what_kubelet_calls_outlives_a_restart() -> None:
    """Both sockets of each driver that the agent may serve have room in systemd's store."""
    [most] = find_settings(SERVICE)["FileDescriptorStoreMax"]
    assert int(most) >= 4


def assess(unit: str) -> str:
    """Return what `systemd-analyze security` says of a unit of ours; skip where it cannot."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd before 250 cannot assess a file")
    return done.stdout


def test_what_is_left_out_is_explained() -> None:
    """Each hardening that systemd counts the agent without has its reason beside it, or is set in part."""
    explained = " ".join(line for line in SERVICE.splitlines() if line.startswith("#"))
    words = {*re.findall(r"\w+", explained), *find_settings(SERVICE)}
    counted = re.findall(r"^✗ ([\w=/]+)=", assess("ebs-agent.service"), re.MULTILINE)
    missing = {name for setting in counted for name in re.findall(r"\w+", setting)}
    assert len(missing) > 10, "systemd-analyze was understood"
    assert not missing - {*words, "RootImage"}


def test_the_agent_waits_for_neither_network_nor_cloud() -> None:
    """A boot without network mounts what is attached: no connection is waited for, and nothing is required.

    What manages the network is to be stopped after the agent, which may have AWS detach volumes at the end.
    """
    settings = find_settings(SERVICE)
    words = [
        word
        for name in ("After", "Requires", "Wants", "BindsTo")
        for value in settings.get(name, [])
        for word in value.split()
        if not word.endswith(".socket")  # which is there at once
    ]
    assert [word for word in words if "network" in word or "cloud" in word] == ["network.target"]
    assert "network.target" in settings["After"][0].split()


def test_a_stop_that_takes_longer_is_asked_for_in_time() -> None:
    """Each word that more time is needed comes before the unit's own limit has passed."""
    (limit,) = find_settings(SERVICE)["TimeoutStopSec"]
    assert EXTENSION_S / 4 < int(limit.removesuffix("s")) <= EXTENSION_S


def test_a_wrong_policy_is_not_tried_again() -> None:
    """Exit status 2 means that only a person can help; everything else is started again, within limits."""
    settings = find_settings(SERVICE)
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert settings["Restart"] == ["always"]
    assert {"StartLimitBurst", "StartLimitIntervalSec", "WatchdogSec"} <= set(settings)


def test_no_boot_hangs_for_ever() -> None:
    """The wait behind the target ends by itself before systemd ends it, and both limits are finite."""
    settings = find_settings((SYSTEMD / "ebs-volumes-ready.service").read_text())
    [environment] = settings["Environment"]
    wait_s = int(environment.removeprefix("EBS_AGENT_WAIT_S="))
    [limit] = settings["TimeoutStartSec"]
    assert wait_s < int(limit.removesuffix("s")) <= 600
    assert settings["ExecStart"][0].endswith("wait --timeout ${EBS_AGENT_WAIT_S}")
    assert not {"Restart", "Upholds"} & set(settings), "then it would never end for those who wait for it"


@pytest.mark.parametrize("unit", sorted(EXPOSURE))
def test_exposure_does_not_get_worse(unit: str) -> None:
    """What `systemd-analyze security` counts against each service stays where it is, or falls."""
    text = assess(unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    assert found, text
    assert float(found[1]) <= EXPOSURE[unit]


def test_nothing_is_newer_than_the_images() -> None:
    """No unit has a setting that Ubuntu 22.04's systemd does not know."""
    for path in SYSTEMD.iterdir():
        settings = find_settings(path.read_text())
        assert not set(settings) & NEWER_THAN_249
        assert settings.get("Type") != ["notify-reload"]


def test_capabilities_are_those_with_a_reason() -> None:
    """The bounding set holds what the comment above it accounts for, and nothing else."""
    names = {word for line in find_settings(SERVICE)["CapabilityBoundingSet"] for word in line.split()}
    reasons = SERVICE[SERVICE.index("# SYS_ADMIN:") : SERVICE.index("CapabilityBoundingSet=")]
    owners = {"CHOWN", "FOWNER", "FSETID", "DAC_OVERRIDE", "DAC_READ_SEARCH"}  # the policy's owners and modes
    assert {name.removeprefix("CAP_") for name in names} - owners == set(
        re.findall(r"[A-Z]+(?:_[A-Z]+)?(?=[:,])", reasons)
    )


def test_descriptors_are_enough_for_volumes_and_strangers() -> None:
    """The daemon may open far more than both faces together take, and what it starts the usual number."""
    (limit,) = find_settings(SERVICE)["LimitNOFILE"]
    soft, hard = map(int, limit.split(":"))
    assert soft == CHILD_DESCRIPTORS
    assert hard == DESCRIPTORS >= 64 * (HTTP_LIMITS.at_once + CONTROL_LIMITS.at_once)


@pytest.mark.parametrize("face", FACES)
def test_each_face_has_a_unit_without_rights(face: str) -> None:
    """It runs its program as its own user, by a socket of root's alone, and takes little of the node."""
    settings = find_settings((SYSTEMD / f"ebs-agent-{face}@.service").read_text())
    user, program = FACES[face]
    assert settings["User"] == [user]
    [command] = settings["ExecStart"]
    assert command.endswith(f"/bin/python -I -m {program.__name__} {IN_UNIT}")
    assert settings["CapabilityBoundingSet"] == [""]
    assert {"MemoryMax", "TasksMax", "LimitNOFILE", "SystemCallFilter"} <= set(settings)
    assert settings["StandardInput"] == ["socket"]


@pytest.mark.parametrize("name", UNITS)
def test_nobody_but_root_has_one_started(name: str) -> None:
    """Its socket is root's alone, where the agent looks for it, and there before the agent is."""
    settings = find_settings((SYSTEMD / f"ebs-agent-{name}@.service").read_text())
    assert settings["StandardInput"] == ["socket"]
    listening = find_settings((SYSTEMD / f"ebs-agent-{name}.socket").read_text())
    [directory] = [
        value.partition("=")[2]
        for value in find_settings(SERVICE)["Environment"]
        if value.startswith(f"{UNITS_VARIABLE}=")
    ]
    assert listening["ListenStream"] == [f"{directory}/{name}.sock"]
    assert (listening["SocketMode"], listening["DirectoryMode"]) == (["0600"], ["0700"])
    assert listening["Accept"] == ["yes"]
    for word in ("Wants", "After"):
        assert any(f"ebs-agent-{name}.socket" in value.split() for value in find_settings(SERVICE)[word])


def test_a_hook_may_what_it_might_before() -> None:
    """It has the rights, the network and the host's own mounts that hooks are written for."""
    settings = find_settings((SYSTEMD / "ebs-agent-hook@.service").read_text())
    assert settings["ExecStart"][0].endswith(f"/bin/python -I -m {hook_main.__name__} {IN_UNIT}")
    assert not set(settings) & {*IMPLY_MOUNT_NAMESPACE, "User", "IPAddressDeny", "PrivateNetwork", "UMask"}
    assert {"AF_INET", "AF_INET6"} <= set(settings["RestrictAddressFamilies"][0].split())
    assert "KillMode" not in settings, "what a hook has started ends with it"


def test_the_agent_has_no_network() -> None:
    """It opens no socket but those of this machine's own, and what it would reach over one is denied."""
    settings = find_settings(SERVICE)
    assert settings["RestrictAddressFamilies"] == ["AF_UNIX AF_NETLINK"]
    assert settings["IPAddressDeny"] == ["any"]


@pytest.mark.parametrize("face", UNITS)
def test_volumes_can_leave_at_the_machine_s_end(face: str) -> None:
    """What speaks to AWS is there, and can be started, for as long as the agent is: nothing ends it first.

    Without ``Slice=`` its instances would lie in a slice of their own, which a shutdown stops at once.
    """
    service = find_settings((SYSTEMD / f"ebs-agent-{face}@.service").read_text())
    listening = find_settings((SYSTEMD / f"ebs-agent-{face}.socket").read_text())
    assert service["DefaultDependencies"] == listening["DefaultDependencies"] == ["no"]
    assert service["Slice"] == ["system.slice"]
    assert not {"PartOf", "BindsTo", "Conflicts"} & {*service, *listening}


def test_no_device_node_can_be_made() -> None:
    """Disks are read and written; the daemon makes no node of any."""
    allowed = [value.split() for value in find_settings(SERVICE)["DeviceAllow"]]
    assert {how for _, how in allowed} == {"rw"}


def test_units_are_named_as_the_documents_say() -> None:
    """These names are part of the interface."""
    names = {path.name for path in SYSTEMD.iterdir()}
    assert names == {
        "ebs-agent.service",
        *(f"ebs-agent-{face}{kind}" for face in UNITS for kind in (".socket", "@.service")),
        "ebs-volumes.target",
        "ebs-volumes-ready.service",
        "ebs-volumes-late.service",
        "wait-for-volumes.conf",
    }
