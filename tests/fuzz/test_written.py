"""What people write: the policy, its values, and what tags make of its templates."""

from __future__ import annotations

import json
from functools import partial

import yaml
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import FsType, NodeFacts, Origin, VolumeId
from agent.core.units import SizeRange, parse_duration, parse_size
from agent.policy.reading import read_policy
from agent.policy.values.cron import Schedule
from agent.policy.values.mkfs_options import find_refused_options
from agent.policy.values.mount_options import find_contradictions, normalise_options, parse_option
from agent.policy.values.mount_path import PathFacts, expand_path, find_obstacle, parse_root, parse_template
from agent.policy.yaml.problems import MAX_PROBLEMS
from tests.fuzz.conftest import Fuzz, check_answer, check_error
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.samples import POLICIES, VOLUME
from tests.unit.policy.samples import make_seen

_DOCUMENTS = [yaml.safe_load(text) for text in POLICIES]


def _check_policy(content: bytes) -> None:
    policy, problems = read_policy(content)
    assert (policy is None) == bool(problems)
    assert len(problems) <= MAX_PROBLEMS
    for problem in problems:
        assert problem.line >= 0
        check_error(AgentError(problem.describe(), problem.hint))
    if policy is not None:
        policy.assign({VolumeId(VOLUME): make_seen(VolumeId(VOLUME))}, NodeFacts(instance_name="compute-1"))


def test_policy(fuzz: Fuzz) -> None:
    """Any file is a policy, or problems with a line and words; what it says can be asked of any volume."""
    trees = mutate_json(_DOCUMENTS).map(
        lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    )
    fuzz(_check_policy, st.one_of(trees, mutate_bytes(POLICIES), st.binary(max_size=400)))


_VALUES = (
    *(b"500GiB", b"0GiB", b">= 1TiB", b"1TiB..2TiB", b"60s", b"7d", b"0 */6 * * 1-5", b"@daily"),
    *(b"noatime", b"commit=30", b"subvol=@data", b'context="system_u:object_r:x:s0:c1,c2"', b"defaults"),
    *(b"-m0", b"-E", b"lazy_itable_init=0,discard", b"-O", b"^metadata_csum", b"-L", b"size=4k"),
    *(b"/data/{name}/{tag:role}", b"/mnt/{instance_name}", b"/data/a/../b", b"/data/{", b"/{volume_id}"),
)


def _check_value(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    for parse in (parse_size, parse_duration, SizeRange.parse, Schedule.parse, parse_root, parse_template):
        check_answer(partial(parse, text))
    words = text.split(" ")
    options = [option for word in words if (option := check_answer(partial(parse_option, word))) is not None]
    normalise_options(options)
    refused = [why for fs_type in FsType for _, why in find_refused_options(fs_type, words)]
    for why in [*refused, *(why for _, why in find_contradictions(options))]:
        check_error(AgentError(why))


def test_values(fuzz: Fuzz) -> None:
    """Sizes, durations, schedules, options and paths are read, or refused in words."""
    texts = st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    fuzz(_check_value, st.one_of(mutate_bytes(_VALUES), texts))


_TEMPLATES = ("/data/{name}", "/data/{tag:role}/{instance_name}", "/data/{volume_id}/x-{tag:a b}")
_TAGS = {"role": "db", "a b": "c"}


def _check_template(content: bytes) -> None:
    template, name, tags = json.loads(content)
    parsed = check_answer(partial(parse_template, str(template)))
    if parsed is None:
        return
    node = NodeFacts(instance_name=str(name))
    origin = Origin(tags=tuple((str(key), str(value)) for key, value in dict(tags).items()))
    find_obstacle(parsed, ["/data"])
    path = expand_path(parsed, PathFacts(VolumeId(VOLUME), "ckpt", node, origin), ["/data"])
    assert path.startswith("/data/")
    assert len(path.split("/")) == len(parsed.split("/")), "each field is one component"
    assert not {"", ".", ".."} & set(path.split("/")[1:])


def test_templates(fuzz: Fuzz) -> None:
    """Whatever a tag or a host name says, a path stays below its root and has the parts it was given."""
    templates = st.one_of(st.sampled_from(_TEMPLATES), st.text(max_size=30).map(lambda text: f"/data/{text}"))
    texts = st.one_of(st.text(max_size=20), st.sampled_from(["..", ".", "", "/", "a/../b", "\0", "x" * 300]))
    tags = st.one_of(st.just(_TAGS), st.fixed_dictionaries({"role": texts, "a b": texts}))
    fuzz(_check_template, st.tuples(templates, texts, tags).map(lambda all_: json.dumps(all_).encode()))
