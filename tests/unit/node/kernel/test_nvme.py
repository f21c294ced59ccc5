from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core.errors import AgentError, InconclusiveError, RefusedError
from agent.core.model import DeviceNumber, Identity, Reason, parse_volume_id
from agent.node.kernel import nvme

MODEL = b"Amazon Elastic Block Store"
SERIAL = b"vol0123456789abcdef0"


def make_controller(
    serial: bytes = SERIAL,
    model: bytes = MODEL,
    vendor: int = 0x1D0F,
    vendor_area: bytes = b"/dev/sdf",
    capsule_size: int = 0,
) -> bytes:
    """Identify Controller as a device of EBS answers it, but for what is said otherwise."""
    page = bytearray(4096)
    struct.pack_into("<HH20s40s", page, 0, vendor, vendor, serial.ljust(20), model.ljust(40))
    struct.pack_into("<I", page, 1792, capsule_size)
    page[3072:4096] = vendor_area.ljust(32).ljust(1024, b"\0")
    return bytes(page)


def make_namespace(*, shared: bool = False) -> bytes:
    page = bytearray(4096)
    page[30] = shared
    return bytes(page)


def refusal_of(controller: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        nvme.parse_identity(controller, make_namespace())
    return caught.value


def test_volume_is_told_by_serial_and_model() -> None:
    """The serial with a dash is the volume ID; padding belongs to no field."""
    assert nvme.parse_identity(make_controller(), make_namespace()) == Identity(
        volume_id=parse_volume_id("vol-0123456789abcdef0"),
        model="Amazon Elastic Block Store",
        serial="vol0123456789abcdef0",
        attach_name="/dev/sdf",
        is_shared=False,
    )


def test_short_volume_id_of_old() -> None:
    """Volumes from before 2016 have eight digits, padded with spaces."""
    assert nvme.parse_identity(make_controller(b"vol0a1b2c3d"), make_namespace()).volume_id == "vol-0a1b2c3d"


def test_instance_store_is_refused_as_such() -> None:
    """Instance store says so in its model and is never the agent's."""
    error = refusal_of(make_controller(b"AWS1234567890ABCDEF0", b"Amazon EC2 NVMe Instance Storage"))
    assert error.reason is Reason.INSTANCE_STORE


@pytest.mark.parametrize(
    "serial",
    [
        b"",
        b"vol",
        b"vol-0123456789abcdef",
        b"vol0123456789ABCDEF0",
        b"vol0123456789abcde",
        b"vol0123456789abcdeg0",
        b" vol0123456789abcdef",
        b"vol0123 456789abcde0",
        b"voldead/../../beef00",
        b"vol01234567\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"vol01234567\n",
        b"vol0123456789abcde\xff0",
        "vol\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}".encode(),
        b"AWS1234567890ABCDEF0",
    ],
)
def test_hostile_serial_is_refused(serial: bytes) -> None:
    """A serial that is not exactly a volume ID is refused: it would become a path and a name."""
    assert refusal_of(make_controller(serial)).reason is Reason.NOT_EBS


@pytest.mark.parametrize(
    "model",
    [b"", b"QEMU NVMe Ctrl", MODEL.lower(), MODEL + b"2", b" " + MODEL, MODEL + b"\0" * 14, b"\xff" * 40],
)
def test_other_model_is_refused(model: bytes) -> None:
    """Only EBS's own model string, padded with spaces, makes a device a volume."""
    assert refusal_of(make_controller(model=model)).reason is Reason.NOT_EBS


def test_vendor_must_be_amazon_on_pcie() -> None:
    """EBS is a PCIe function of Amazon's; over a network the vendor is whoever runs the target."""
    assert "vendor" in refusal_of(make_controller(vendor=0x1B36)).message
    over_network = make_controller(vendor=0, capsule_size=4)
    assert "vendor" in refusal_of(over_network).message
    taken = nvme.parse_identity(over_network, make_namespace(), takes_fabrics=True)
    assert taken.volume_id == "vol-0123456789abcdef0"
    pcie = make_controller(vendor=0x1B36)
    with pytest.raises(RefusedError, match="vendor"):
        nvme.parse_identity(pcie, make_namespace(), takes_fabrics=True)


def test_shared_namespace_is_multi_attach() -> None:
    """NMIC tells a multi-attach volume; Linux's own network target sets it always, and is not heard."""
    shared = make_namespace(shared=True)
    assert nvme.parse_identity(make_controller(), shared).is_shared
    fabrics = make_controller(capsule_size=4), shared
    assert nvme.parse_identity(*fabrics, takes_fabrics=True).is_shared
    fabrics = make_controller(vendor=0, capsule_size=4), shared
    assert not nvme.parse_identity(*fabrics, takes_fabrics=True).is_shared


def test_network_is_told_by_the_kernel(tmp_path: Path) -> None:
    """Every controller's transport counts, behind a multi-path disk too."""
    subsystem, plain, mute = (DeviceNumber(259, number) for number in range(3))
    for number, name, transport in (
        (subsystem, "nvme0/", "tcp"),
        (subsystem, "nvme1/", "pcie"),
        (plain, "", "tcp"),
    ):
        node = tmp_path / f"dev/block/{number}/device/{name}"
        node.mkdir(parents=True, exist_ok=True)
        (node / "transport").write_text(f"{transport}\n")
    assert nvme.read_transports(subsystem, tmp_path) == {"tcp", "pcie"}
    assert nvme.read_transports(plain, tmp_path) == {"tcp"}
    assert nvme.read_transports(mute, tmp_path) == frozenset()


def test_device_over_a_network_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused whatever it would say of itself, unless a test says otherwise."""
    said = {0: make_namespace(), 1: make_controller(vendor=0, capsule_size=4)}
    monkeypatch.setattr(nvme, "_send_admin_command", lambda *_, cdw10, **__: said[cdw10])
    monkeypatch.setattr(nvme, "_find_transports", lambda _: frozenset({"tcp"}))
    with pytest.raises(RefusedError, match="over tcp"):
        nvme.identify(-1)
    assert nvme.identify(-1, takes_fabrics=True).volume_id == "vol-0123456789abcdef0"
    monkeypatch.setattr(nvme, "_find_transports", lambda _: frozenset({"pcie"}))
    with pytest.raises(RefusedError, match="vendor"):
        nvme.identify(-1, takes_fabrics=True)


@pytest.mark.parametrize(
    ("transports", "outcome"),
    [
        (frozenset({"pcie"}), None),
        (frozenset({"tcp"}), RefusedError),
        (frozenset({"pcie", "tcp"}), RefusedError),
        (frozenset({"a transport of tomorrow"}), RefusedError),
        (frozenset(), InconclusiveError),
        (frozenset({None}), InconclusiveError),
        (frozenset({"pcie", None}), InconclusiveError),
    ],
)
def test_volume_is_reached_over_pcie_alone(
    monkeypatch: pytest.MonkeyPatch, transports: frozenset[str | None], outcome: type[AgentError] | None
) -> None:
    """What says all that EBS says is taken only where the kernel says that each way to it is PCIe."""
    said = {0: make_namespace(), 1: make_controller()}
    monkeypatch.setattr(nvme, "_send_admin_command", lambda *_, cdw10, **__: said[cdw10])
    monkeypatch.setattr(nvme, "_find_transports", lambda _: transports)
    if outcome is None:
        assert nvme.identify(-1).volume_id == "vol-0123456789abcdef0"
    else:
        with pytest.raises(outcome, match="reached"):
            nvme.identify(-1)


@pytest.mark.parametrize(
    ("area", "name"),
    [
        (b"/dev/sdf", "/dev/sdf"),
        (b"sdf", "/dev/sdf"),
        (b"xvdba", "/dev/xvdba"),
        (b"", None),
        (b"\0" * 32, None),
        (b"/dev/../etc", None),
        (b"/dev/sdf/x", None),
        (b"sd f", None),
        (b"\xff" * 32, None),
        (b"/dev/" + b"a" * 27, None),
    ],
)
def test_attach_name(area: bytes, name: str | None) -> None:
    """The device name chosen at attach comes with or without /dev/; nonsense there is no name."""
    assert nvme.parse_identity(make_controller(vendor_area=area), make_namespace()).attach_name == name


@given(st.binary(max_size=24), st.binary(max_size=44), st.binary(max_size=40), st.integers(0, 0xFFFF))
@example(SERIAL, MODEL, b"sdf", 0x1D0F)
def test_any_bytes_are_a_volume_or_refused(serial: bytes, model: bytes, area: bytes, vendor: int) -> None:
    """Whatever a device says, the outcome is a proper volume ID or a refusal."""
    controller = make_controller(serial[:20], model[:40], vendor, area[:32])
    outcome: Identity | RefusedError
    try:
        outcome = nvme.parse_identity(controller, make_namespace())
    except RefusedError as error:
        outcome = error
    if isinstance(outcome, Identity):
        assert parse_volume_id(outcome.volume_id) == f"vol-{outcome.serial[3:]}"
    else:
        assert outcome.reason in {Reason.NOT_EBS, Reason.INSTANCE_STORE}
        assert outcome.message.isascii()
        assert outcome.message.isprintable()


@given(st.binary(max_size=5000))
def test_page_of_any_length_is_refused_or_read(page: bytes) -> None:
    """A page of another length, or of garbage, is never an identity."""
    with pytest.raises(RefusedError):
        nvme.parse_identity(page, make_namespace())
    with pytest.raises(RefusedError):
        nvme.parse_identity(make_controller(), page[:4095])


def test_kernel_is_never_to_give_a_question_up() -> None:
    """A question waits for weeks: a kernel that gives one up resets the controller."""
    command = bytes(nvme.make_admin_command(0x02, nsid=1, cdw10=0x03FF00D0, address=0xA0B0C0D0))
    assert len(command) == 72
    assert struct.unpack_from("<BBHI", command) == (0x02, 0, 0, 1)
    address, _, length, cdw10 = struct.unpack_from("<QIII", command, 24)
    assert (address, length, cdw10) == (0xA0B0C0D0, 4096, 0x03FF00D0)
    (timeout_ms,) = struct.unpack_from("<I", command, 64)
    assert timeout_ms > 20 * 24 * 3600 * 1000


@pytest.mark.parametrize("status", [0x370, 0x371, 0x4371, 0x303])
def test_question_that_never_reached_the_device_says_nothing_about_it(status: int) -> None:
    """What the kernel gave up on its way to a controller that is being reset is no answer."""
    with pytest.raises(InconclusiveError) as caught:
        nvme.require_success(0x06, status)
    assert caught.value.reason is Reason.UNREACHABLE
    assert caught.value.retryable


@pytest.mark.parametrize("status", [0x2, 0x4002, 0x109, 0x281])
def test_answer_with_an_error_is_an_answer(status: int) -> None:
    """A device that says no is reached."""
    with pytest.raises(AgentError, match="admin command 0x02 with status") as caught:
        nvme.require_success(0x02, status)
    assert not isinstance(caught.value, InconclusiveError)


def test_device_that_is_no_nvme_is_an_error() -> None:
    """What does not take NVMe commands has no identity."""
    with Path("/dev/null").open("rb") as device, pytest.raises(AgentError, match="command 0x06"):
        nvme.identify(device.fileno())
