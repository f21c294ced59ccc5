"""What one process tells another of the board, and what the other makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from agent.core.model import (
    Condition,
    EndCause,
    Ending,
    Expected,
    NextCall,
    NodeFacts,
    NodePlace,
    NodeReason,
    Provisioned,
    VolumeId,
)
from agent.core.replace import replace
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics
from agent.report import api
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.readings import Health, Reading
from agent.report.board.timelines import make_key
from agent.report.endpoints.page import show_content
from agent.report.feed.frames import HEAD, MAX_BYTES, FeedError, News, Setup, decode, encode, read_head
from agent.report.feed.mirror import Mirror, MirroredCounters
from agent.report.feed.teller import Source, Teller
from agent.report.health.trends import list_points, take_mark
from agent.report.metrics.exposition import Exposition
from tests.unit.report.health.test_verdicts import SAMPLE
from tests.unit.report.samples import (
    CHECKPOINTS,
    DATASETS,
    READY,
    REFUSED,
    make_board,
    make_places,
    make_status,
)

MOST = (1 << 64) - 1


class Pair:
    """A board, and a mirror that is told of it."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.counters = Counters()
        self.readings: dict[VolumeId, tuple[Reading, ...]] = {}
        self.mirror = Mirror()
        self._teller = Teller(Source(board, self.counters.registry, self._get_readings, lambda: 7))

    def _get_readings(self, volume_id: VolumeId) -> Sequence[Reading]:
        return self.readings.get(volume_id, ())

    def tell(self) -> News:
        """Tell what is news, and return it."""
        news = decode(self._teller.tell(), News)
        self.mirror.heed(news)
        return news

    def show(self) -> tuple[object, object]:
        """Return what the page shows of the board, and of the mirror."""
        marks = {volume: list(map(take_mark, found)) for volume, found in self.readings.items()}
        own = show_content(self.board, {str(volume): list_points(found) for volume, found in marks.items()})
        told = {str(volume): list_points(self.mirror.get_marks(volume)) for volume in marks}
        return own, show_content(self.mirror, told)


def make_full_board() -> Board:
    board = make_board(READY, REFUSED)
    board.expect([Expected("later", None, is_required=True)])
    board.places = make_places("m5.large")
    board.ending = Ending(EndCause.POWER_OFF, "This machine is being powered off.")
    board.remarks = ("A sentence.",)
    board.put_persistent_volumes({CHECKPOINTS: "pv-1"})
    board.put_claims({CHECKPOINTS: "training/logs"})
    board.place = NodePlace(NodeFacts("worker-1", "worker", "i-1", "abc"), "us-west-2b", "ip-10-0-0-1")
    board.provisioned = {CHECKPOINTS: Provisioned(3000, 250)}
    board.next_calls = (NextCall("later", None, "CreateVolume", "make a volume"),)
    board.publish(make_status(REFUSED, condition=Condition.DEGRADED))
    board.statuses()
    board.publish(REFUSED)
    board.node_conditions.show(next(iter(NodeReason)), "ebs.csi.aws.com", "It is so.", "Do that.")
    board.judge(CHECKPOINTS, Health(replace(SAMPLE, log_page=b"\x00" * 4096), None, (), 0.001))
    board.record(EventName.VOLUME_MOUNTED, CHECKPOINTS, text="mount at /data", odd="\udcff", deep={"a": [1]})
    return board


def list_lines(exposition: Exposition, accept: str) -> set[bytes]:
    """Return what is exposed, but for what this process costs, which moves from one time to the next."""
    lines = exposition.render(accept)[0].splitlines()
    return {line for line in lines if not line.startswith(b"process_")}


def test_a_mirror_shows_what_the_board_shows() -> None:
    """The page, readiness and every series are the same, made in another process of what was told."""
    pair = Pair(make_full_board())
    pair.counters.count_step("mount", "done")
    pair.counters.count_reconcile("done", 0.02)
    pair.tell()
    own, told = pair.show()
    assert own == told
    there = Exposition(pair.mirror, MirroredCounters(pair.mirror), pair.mirror.count_abandoned)
    here = Exposition(pair.board, pair.counters, lambda: 7)
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        assert list_lines(there, accept) == list_lines(here, accept)
    assert all(status.facts == () for status in pair.mirror.statuses())


def test_only_news_is_told() -> None:
    """Of what stays as it was nothing is sent again, and what is gone is shown no more."""
    pair = Pair(make_full_board())
    assert len(pair.tell().volumes) == 3
    assert (pair.tell().volumes, pair.tell().events) == ((), ())
    pair.board.publish(make_status(condition=Condition.LOST))
    (news,) = pair.tell().volumes
    assert news.key == CHECKPOINTS
    pair.board.remove(DATASETS)
    pair.board.record(EventName.VOLUME_LOST, CHECKPOINTS)
    assert [status.name for status in pair.board.statuses()] == ["checkpoints", "later"]
    assert len(pair.tell().events) == 1
    own, told = pair.show()
    assert own == told


def test_unchanged_statuses_stay_the_same_objects() -> None:
    """What is made of a status is kept for as long as it is the same one."""
    pair = Pair(make_full_board())
    pair.tell()
    before = pair.mirror.statuses()
    pair.tell()
    assert all(one is other for one, other in zip(before, pair.mirror.statuses(), strict=True))


def test_charts_follow_readings() -> None:
    """Each reading's mark is sent once; a window that moved on, or began anew, is followed."""
    pair = Pair(make_board(READY))
    window = [Reading(at * 15.0, SAMPLE, None, SAMPLE.counters) for at in range(100)]
    for begin, end, sent in ((0, 0, 0), (0, 40, 40), (0, 60, 20), (30, 90, 30), (30, 90, 0), (90, 92, 2)):
        pair.readings[CHECKPOINTS] = tuple(window[begin:end])
        told = pair.tell().volumes
        assert sum(len(one.marks) for one in told) == sent
        assert len(pair.mirror.get_marks(CHECKPOINTS)) == end - begin
    pair.readings[CHECKPOINTS] = (Reading(5000.0), Reading(5015.0))
    pair.tell()
    assert len(pair.mirror.get_marks(CHECKPOINTS)) == 2
    pair.readings[CHECKPOINTS] = ()
    pair.tell()
    assert pair.mirror.get_marks(CHECKPOINTS) == ()


def test_what_no_encoding_has_is_spelt_out() -> None:
    """A path or name that is no text, as anybody may give, is shown, and keeps nothing from being told."""
    pair = Pair(make_board(make_status(path="/data/\udcff", message="\ud800 there"), REFUSED))
    pair.tell()
    first, second = pair.mirror.statuses()
    assert (first.path, first.message) == (r"/data/\udcff", r"\ud800 there")
    assert second == replace(REFUSED, since=second.since)
    assert first.last_step == READY.last_step


def test_the_largest_numbers_are_told() -> None:
    """A device may count as far as its registers go."""
    most = Direction(MOST, MOST, MOST)
    statistics = EbsStatistics(most, most, MOST, MOST, MOST, MOST, MOST)
    pair = Pair(make_board(READY))
    pair.board.judge(CHECKPOINTS, Health(SAMPLE, statistics, (), float("nan")))
    pair.readings[CHECKPOINTS] = (Reading(1.0, SAMPLE, statistics), Reading(2.0, SAMPLE, statistics))
    pair.tell()
    (status,) = pair.mirror.statuses()
    assert status.health is not None
    assert status.health.statistics == statistics
    assert len(list_points(pair.mirror.get_marks(CHECKPOINTS))) == 1


def test_a_face_counts_beside_what_it_is_told() -> None:
    """Its own connections are in the daemon's family; all else is the daemon's."""
    pair = Pair(make_board(READY))
    pair.counters.count_connection("control", "accepted")
    pair.tell()
    counters = MirroredCounters(pair.mirror)
    counters.count_connection("http", "late")
    text = Exposition(pair.mirror, counters).render()[0].decode()
    assert 'ebs_agent_connections_total{face="control",outcome="accepted"} 1.0' in text
    assert 'ebs_agent_connections_total{face="http",outcome="late"} 1.0' in text
    assert text.count("# TYPE ebs_agent_connections_total") == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x91" * 5000,
        encode(Setup("1")),
        msgspec.msgpack.encode({"keys": [1]}),
        Teller(Source(make_board(), Counters().registry, lambda _: (), lambda: 0)).tell()[:-1],
    ],
)
def test_what_does_not_fit_the_schema_is_refused(content: bytes) -> None:
    with pytest.raises(FeedError, match="is no News"):
        decode(content, News)


def test_a_volume_that_was_never_told_is_refused() -> None:
    """A mirror shows what it was told whole, or what it showed before."""
    pair = Pair(make_board(READY))
    news = pair.tell()
    with pytest.raises(FeedError, match="vol-x"):
        pair.mirror.heed(replace(news, keys=("vol-x",)))
    assert [make_key(status) for status in pair.mirror.statuses()] == [CHECKPOINTS]


def test_a_frame_has_a_length() -> None:
    """More than is taken is refused before it is read."""
    assert read_head(HEAD.pack(MAX_BYTES)) == MAX_BYTES
    with pytest.raises(FeedError, match=str(MAX_BYTES + 1)):
        read_head(HEAD.pack(MAX_BYTES + 1))


def test_what_a_certificate_holds_is_not_shown() -> None:
    """The key is in no representation that a log might get."""
    setup = Setup("1", (b"cert", b"secret", None))
    assert "secret" not in repr(setup)
    assert decode(encode(setup), Setup) == setup


def test_the_status_of_a_mirror_is_that_of_the_board() -> None:
    """All that anybody is shown of a volume is told, whatever is added to it."""
    pair = Pair(make_full_board())
    pair.tell()
    for own, told in zip(pair.board.statuses(), pair.mirror.statuses(), strict=True):
        assert api.show_status(own) == api.show_status(told)
