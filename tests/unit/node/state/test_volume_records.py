from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import AgentError, InconclusiveError, RefusedError, ShortageError
from agent.core.model import (
    DeviceNumber,
    FormatRecord,
    FormatStage,
    FsType,
    MountRecord,
    OriginRecord,
    RawRecord,
    VolumeId,
)
from agent.node.state.record_files import write_synced
from agent.node.state.volume_records import Notes, Records, read_boot_id, read_notes
from tests.descriptors import used_up_descriptors

VOLUME = VolumeId("vol-0123456789abcdef0")
few_examples = settings(max_examples=40)  # each is synced to the disk
OTHER = VolumeId("vol-0fedcba9876543210")
FORMAT = FormatRecord(
    VOLUME,
    "6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11",
    FsType.XFS,
    1 << 40,
    FormatStage.INTENDED,
    "2026-11-23T20:00:00+00:00",
)
MOUNT = MountRecord(VOLUME, "/data/ckpt", DeviceNumber(259, 3), "0b51", 17, ("nosuid", "nodev"))

volume_ids = st.from_regex(r"\Avol-[0-9a-f]{17}\Z").map(VolumeId)
numbers = st.integers(0, 1 << 64)
texts = st.text(max_size=80)
format_records = st.builds(
    FormatRecord, volume_ids, texts, st.sampled_from(FsType), numbers, st.sampled_from(FormatStage), texts
)
mount_records = st.builds(
    MountRecord,
    volume_ids,
    texts,
    st.builds(DeviceNumber, numbers, numbers),
    texts,
    st.none() | numbers,
    st.lists(texts, max_size=4).map(tuple),
)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state", "machine-1")


def format_file(tmp_path: Path) -> Path:
    return tmp_path / "state/formats" / f"{VOLUME}.json"


@few_examples
@given(record=format_records)
def test_format_comes_back_as_written(tmp_path_factory: pytest.TempPathFactory, record: FormatRecord) -> None:
    """Whatever is written is read back equal, and the last one written wins."""
    records = Records(tmp_path_factory.getbasetemp() / "formats", "machine-1")
    records.formats.write(FORMAT)
    records.formats.write(record)
    assert records.formats.read(record.volume_id) == record


@few_examples
@given(record=mount_records)
def test_mount_comes_back_as_written(tmp_path_factory: pytest.TempPathFactory, record: MountRecord) -> None:
    """Whatever is written is read back equal, paths of any characters included."""
    records = Records(tmp_path_factory.getbasetemp() / "mounts", "machine-1")
    records.mounts.write(record)
    assert records.mounts.read(record.volume_id) == record


@pytest.mark.parametrize(
    "record",
    [
        OriginRecord(VOLUME, snapshot_id="snap-0123456789abcdef0"),
        OriginRecord(VOLUME, source_volume_id=OTHER),
    ],
)
def test_origin_comes_back_as_written(records: Records, record: OriginRecord) -> None:
    """What a volume was made from is read back equal, and is no note of another kind."""
    assert records.origins.read(VOLUME) is None
    records.origins.write(record)
    assert records.origins.read(VOLUME) == record
    assert records.formats.read(VOLUME) is None
    assert records.mounts.list_volumes() == ()


def test_no_note_is_none(records: Records) -> None:
    """What was never written is not there, and removing it is done."""
    assert records.formats.read(VOLUME) is None
    assert records.mounts.read(VOLUME) is None
    assert records.mounts.list_volumes() == ()
    records.formats.remove(VOLUME)
    records.mounts.remove(VOLUME)


def test_volumes_and_kinds_are_apart(records: Records) -> None:
    """A note concerns one volume and one kind, and removing it removes no other."""
    records.formats.write(FORMAT)
    records.mounts.write(MOUNT)
    assert records.formats.read(OTHER) is None
    assert records.mounts.list_volumes() == (VOLUME,)
    records.mounts.remove(VOLUME)
    assert records.mounts.list_volumes() == ()
    assert records.formats.read(VOLUME) == FORMAT


def test_notes_are_roots_alone(records: Records, tmp_path: Path) -> None:
    """Nobody else can read or write a note or its directory."""
    records.formats.write(FORMAT)
    assert format_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert format_file(tmp_path).parent.stat().st_mode & 0o777 == 0o700


def test_torn_note_is_refused_at_every_length(records: Records, tmp_path: Path) -> None:
    """A note cut short anywhere is refused by name; none is read as another note, or as no note."""
    records.formats.write(FORMAT)
    path = format_file(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole.rstrip())):
        path.write_bytes(whole[:length])
        with pytest.raises(RefusedError, match=str(path)):
            records.formats.read(VOLUME)


@few_examples
@given(content=st.binary(max_size=500))
def test_any_other_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """No bytes but a note's own are a note, and none crash the reader."""
    records = Records(tmp_path_factory.getbasetemp() / "noise", "machine-1")
    records.formats.write(FORMAT)
    (tmp_path_factory.getbasetemp() / "noise/formats" / f"{VOLUME}.json").write_bytes(content)
    with pytest.raises(RefusedError):
        records.formats.read(VOLUME)


@few_examples
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_flipped_bit_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, position: int, bit: int
) -> None:
    """After any single bit flips, the note is refused or says exactly what it said."""
    directory = tmp_path_factory.getbasetemp() / "flipped"
    records = Records(directory, "machine-1")
    records.formats.write(FORMAT)
    path = directory / "formats" / f"{VOLUME}.json"
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    with contextlib.suppress(RefusedError):
        assert records.formats.read(VOLUME) == FORMAT


def rewrite(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    note = json.loads(path.read_bytes())
    change(note)
    path.write_text(json.dumps(note))


def test_note_of_another_machine_is_refused(records: Records, tmp_path: Path) -> None:
    """A state directory that came with a copied disk says nothing about this node's volumes."""
    Records(tmp_path / "state", "machine-2").formats.write(FORMAT)
    with pytest.raises(RefusedError, match="another machine"):
        records.formats.read(VOLUME)


def test_note_of_another_volume_is_refused(records: Records, tmp_path: Path) -> None:
    """A note copied under another volume's name is not about that volume."""
    records.formats.write(FORMAT)
    format_file(tmp_path).rename(format_file(tmp_path).with_name(f"{OTHER}.json"))
    with pytest.raises(RefusedError, match=f"about {VOLUME}"):
        records.formats.read(OTHER)


def test_note_of_another_kind_is_refused(records: Records, tmp_path: Path) -> None:
    """A note about a mount is none about a format."""
    records.mounts.write(MOUNT)
    records.formats.write(FORMAT)
    (tmp_path / "state/mounts" / f"{VOLUME}.json").replace(format_file(tmp_path))
    with pytest.raises(RefusedError, match="'mount' note"):
        records.formats.read(VOLUME)


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.update(version=2),
        lambda note: note.update(version=True),
        lambda note: note.update(extra=1),
        lambda note: note.pop("checksum"),
        lambda note: note["record"].update(stage="done"),
        lambda note: note["record"].update(size_bytes=-1),
        lambda note: note.update(record=[]),
        lambda note: note.update(record=None),
    ],
)
def test_note_changed_by_hand_is_refused(
    records: Records, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    """A note says what the agent wrote or nothing."""
    records.formats.write(FORMAT)
    rewrite(format_file(tmp_path), change)
    with pytest.raises(RefusedError):
        records.formats.read(VOLUME)


@pytest.mark.parametrize("content", [b"[" * 60_000, b'{"a":' * 10_000, b" " * 70_000, b"9" * 60_000])
def test_note_that_would_cost_much_is_refused(records: Records, tmp_path: Path, content: bytes) -> None:
    """Deep, long and huge content is refused without being worked through."""
    records.formats.write(FORMAT)
    format_file(tmp_path).write_bytes(content)
    with pytest.raises(RefusedError):
        records.formats.read(VOLUME)


@pytest.mark.parametrize("words", ["x" * 20_000, "\x1b[2J\nno\x00"])
def test_what_a_note_says_does_not_become_the_error(records: Records, tmp_path: Path, words: str) -> None:
    """A note of somebody's writing is refused in a sentence that can be shown, whatever is in it."""
    records.formats.write(FORMAT)
    for field in ("kind", "machine_id", "version"):
        rewrite(format_file(tmp_path), lambda note, field=field: note.update({field: words}))  # type: ignore[misc]
        with pytest.raises(RefusedError, match="cannot be trusted") as raised:
            records.formats.read(VOLUME)
        assert raised.value.message.isprintable()
        assert len(raised.value.message) < 600


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def open_to_others(path: Path) -> None:
    path.chmod(0o620)


def open_directory_to_others(path: Path) -> None:
    path.parent.chmod(0o777)


def replace_directory_by_link(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "tamper",
    [
        replace_by_link,
        replace_by_fifo,
        replace_by_directory,
        open_to_others,
        open_directory_to_others,
        replace_directory_by_link,
    ],
)
def test_note_others_could_have_made_is_refused(
    records: Records, tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    """A link, a pipe, and whatever others may write to is refused at once, by name and with a way out."""
    records.formats.write(FORMAT)
    tamper(format_file(tmp_path))
    with pytest.raises(RefusedError, match=str(format_file(tmp_path))) as caught:
        records.formats.read(VOLUME)
    assert "mv " in (caught.value.hint or "")


def test_nothing_is_written_where_others_may_write(records: Records, tmp_path: Path) -> None:
    """A note in a directory open to others would be worth nothing, so writing it fails."""
    records.formats.write(FORMAT)
    format_file(tmp_path).parent.chmod(0o777)
    with pytest.raises(AgentError):
        records.formats.write(FORMAT)


def test_failed_write_leaves_the_old_note(records: Records, tmp_path: Path) -> None:
    """Where a note cannot be put in place, the writer hears of it and the old one still stands."""
    records.formats.write(FORMAT)
    # A directory in the way of the temporary file stands for any error of the filesystem.
    (format_file(tmp_path).parent / f".new-{VOLUME}.json").mkdir()
    with pytest.raises(AgentError, match="could not be written"):
        records.formats.write(FormatRecord(VOLUME, "x", FsType.EXT4, 1, FormatStage.DONE, ""))
    assert records.formats.read(VOLUME) == FORMAT


def test_what_a_killed_writer_left_is_no_note(records: Records, tmp_path: Path) -> None:
    """A temporary file is not read, not listed, and not in the way of the next write."""
    records.mounts.write(MOUNT)
    leftover = tmp_path / "state/mounts" / f".new-{VOLUME}.json"
    leftover.write_text("half")
    assert records.mounts.list_volumes() == (VOLUME,)
    records.mounts.write(MOUNT)
    assert records.mounts.read(VOLUME) == MOUNT
    assert not leftover.exists()


def test_synced_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Readers see the old content or the new, since it is another file that takes the name."""
    path = tmp_path / "deep/down/file"
    write_synced(path, b"old")
    with path.open("rb") as old:
        write_synced(path, b"new")
        assert (old.read(), path.read_bytes()) == (b"old", b"new")


def test_boot_id_is_of_this_boot() -> None:
    """Every read gives the same, or notes of this boot would look stale."""
    assert read_boot_id() == read_boot_id() != ""


def test_full_table_of_descriptors_casts_no_doubt_on_a_note(records: Records) -> None:
    """Where nothing can be opened, a note is neither there nor bad, and nobody is told to move it away."""
    records.formats.write(FORMAT)
    records.mounts.write(MOUNT)
    for attempt in (
        lambda: records.formats.read(VOLUME),
        lambda: records.mounts.read(VOLUME),
        records.mounts.list_volumes,
        lambda: records.formats.write(FORMAT),
        lambda: records.mounts.remove(VOLUME),
    ):
        with used_up_descriptors(), pytest.raises(ShortageError) as caught:
            attempt()
        assert "mv " not in str(caught.value)
    assert records.formats.read(VOLUME) == FORMAT


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "read"])
def test_note_that_could_not_be_read_is_not_bad(
    records: Records, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """An error of the disk the note is on leaves it as trustworthy as it was."""
    records.formats.write(FORMAT)

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"agent.node.state.record_files.os.{call}", fail)
        with pytest.raises(InconclusiveError, match="could not be read") as caught:
            records.formats.read(VOLUME)
    assert "mv " not in str(caught.value)
    assert caught.value.retryable
    assert records.formats.read(VOLUME) == FORMAT


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_without_space_for_a_note_is_told_as_that(
    records: Records, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A note that found no space is tried again; what to free is said."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("agent.node.state.record_files.os.fsync", fail)
    with pytest.raises(ShortageError, match="Free some space"):
        records.formats.write(FORMAT)


def test_notes_are_read_together_and_judged_each(records: Records, tmp_path: Path) -> None:
    """A note that cannot be trusted keeps no other from being read; it is told where it is needed."""
    assert read_notes(records, VOLUME) == Notes(None, None, None)
    records.formats.write(FORMAT)
    records.mounts.write(MOUNT)
    raw = RawRecord(VOLUME, "0b51", 17, None)
    records.raws.write(raw)
    origin = OriginRecord(VOLUME, "snap-0123456789abcdef0", None)
    records.origins.write(origin)
    assert read_notes(records, VOLUME) == Notes(MOUNT, FORMAT, raw, origin)
    (tmp_path / "state" / "origins" / f"{VOLUME}.json").write_bytes(b"{}")
    (tmp_path / "state" / "raw" / f"{VOLUME}.json").write_bytes(b"")
    format_file(tmp_path).write_bytes(b"{")
    found = read_notes(records, VOLUME)
    assert found.mount == MOUNT
    assert isinstance(found.format, RefusedError)
    assert isinstance(found.raw, RefusedError)
    assert isinstance(found.origin, RefusedError)
    (tmp_path / "state" / "mounts" / f"{VOLUME}.json").write_bytes(b"{")
    with pytest.raises(RefusedError):
        read_notes(records, VOLUME)
