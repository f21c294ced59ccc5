"""A table of mistakes, each with the place and the words it is reported with."""

from __future__ import annotations

import pytest

from agent.policy.reading import check_policy
from agent.policy.yaml.problems import MAX_PROBLEMS
from tests.unit.policy.samples import find_messages

ID = "vol-0123456789abcdef0"
FS = "filesystem: {type: ext4}"
MOUNT = "mount: {path: /data/a}"
VALID = f"- {{name: a, match: {{volume_id: {ID}}}, {FS}, {MOUNT}}}"


def _volume(text: str) -> str:
    return f"version: 1\nvolumes:\n- {{name: a, {text}}}"


def _use(text: str) -> str:
    return _volume(f"match: {{volume_id: {ID}}}, {text}")


def _class(text: str) -> str:
    return f"version: 1\nclasses: {{c: {{{text}}}}}"


def _claim(volume_class: str, claim: str, use: str = f"{FS}, {MOUNT}") -> str:
    return f"{_class(volume_class)}\nvolumes:\n- {{name: a, claim: {{class: c, {claim}}}, {use}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 : The policy is empty."),
        ("- a", "1:1 : The policy is not a mapping"),
        ("agent: {}", "1:1 version: The key 'version' is missing."),
        ("version: 2", "1:10 version: 2 is not one of 1."),
        ("version: 1\nvolume: []", "2:1 volume: The key 'volume' is not known."),
        ("version: 1\nvolumes:", "2:1 volumes: There is no value."),
        ("version: 1\nvolumes: {}", "2:10 volumes: {} is not a list."),
        ("version: 1\nvolumes: [3]", "2:11 volumes[0]: "),
        ("version: 1\nclasses: []", "2:10 classes: [] is not a mapping."),
        ("version: 1\nagent:", "2:1 agent: There is no value."),
        (
            _volume(f"match: {{volume_id: , instance_group: g}}, {FS}, {MOUNT}"),
            "volumes[0].match.volume_id: There is no",
        ),
        (_use(f"{FS}, {MOUNT}, tune: "), "volumes[0].tune: There is no value."),
        (_use(f"{FS}, mount: {{path: /data/a, options: [ro, ~]}}"), "mount.options: There is no value."),
        (
            f"version: 1\nvolumes:\n- {{name: , match: {{volume_id: {ID}}}, block: {{}}}}",
            "volumes[0].name: There is no",
        ),
        ("version: 1\nclasses: {by/id: {}}", "2:11 classes.by/id: 'by/id' is not a name."),
        # agent
        ("version: 1\nagent: {resync: 60}", "2:17 agent.resync: '60' is not a duration."),
        ("version: 1\nagent: {resync: 0s}", "2:17 agent.resync: The resync interval"),
        ("version: 1\nagent: {htp: {}}", "2:9 agent.htp: The key 'htp' is not known."),
        ("version: 1\nagent: {http: {listen: '9842'}}", "agent.http.listen: '9842' is not a host"),
        ("version: 1\nagent: {http: {listen: 'a:70000'}}", "agent.http.listen: 'a:70000' has no valid port."),
        ("version: 1\nagent: {http: {tls: {cert: /a}}}", "agent.http.tls.key: The key 'key' is missing."),
        ("version: 1\nagent: {http: {tls: {cert: a, key: /b}}}", "agent.http.tls.cert: 'a' is not absolute."),
        ("version: 1\nagent: {cloud: {enabled: maybe}}", "agent.cloud.enabled: 'maybe' is not auto"),
        ("version: 1\nagent: {cloud: {attach_api: ec3}}", "agent.cloud.attach_api: 'ec3' is not one of"),
        (
            "version: 1\nagent: {cloud: {format_without_origin_after: 5}}",
            "agent.cloud.format_without_origin_after: '5' is not a duration.",
        ),
        (
            "version: 1\nagent: {cloud: {format_without_origin_after: 2d}}",
            "agent.cloud.format_without_origin_after: '2d' is longer than this can last.",
        ),
        ("version: 1\nagent: {csi: {enabled: yes please}}", "agent.csi.enabled: 'yes please' is not auto"),
        ("version: 1\nagent: {csi: {driver: Ebs}}", "agent.csi.driver: 'Ebs' is not a driver's name."),
        ("version: 1\nagent: {csi: {driver: ../a}}", "agent.csi.driver: '../a' is not a driver's name."),
        (
            "version: 1\nagent: {csi: {driver: policy.ebs.csi.hyperpod-agent}}",
            "agent.csi.driver: policy.ebs.csi.hyperpod-agent is the name under which",
        ),
        ("version: 1\nagent: {csi: {policy_volumes: 1}}", "agent.csi.policy_volumes: "),
        ("version: 1\nagent: {csi: {driver: a..b}}", "agent.csi.driver: 'a..b' is not a driver's name."),
        (f"version: 1\nagent: {{csi: {{driver: {'b' * 64}}}}}", "agent.csi.driver: 'bbbb"),
        ("version: 1\nagent: {csi: {kubelet_root: a}}", "agent.csi.kubelet_root: 'a' is not absolute."),
        ("version: 1\nagent: {csi: {zone: us-west}}", "agent.csi.zone: 'us-west' is not a zone."),
        ("version: 1\nagent: {csi: {kubelet_root: 1}}", "agent.csi.kubelet_root: 1 is not a path."),
        (
            "version: 1\nagent: {csi: {attach_limit: 0}}",
            "agent.csi.attach_limit: 0 is not auto, nor a number",
        ),
        ("version: 1\nagent: {csi: {attach_limit: true}}", "agent.csi.attach_limit: true is not auto"),
        ("version: 1\nagent: {csi: {reserved: -1}}", "agent.csi.reserved: "),
        ("version: 1\nagent: {mqtt: {host: b..c}}", "agent.mqtt.host: 'b..c' is no host name or address."),
        (
            f"version: 1\nagent: {{mqtt: {{host: {'b' * 64}.example}}}}",
            "agent.mqtt.host: 'bbbbbbb",
        ),
        ("version: 1\nagent: {mqtt: {host: 'a b'}}", "agent.mqtt.host: 'a b' is no host name or address."),
        (
            "version: 1\nagent: {mqtt: {host: b, topic: 'a/#'}}",
            "agent.mqtt.topic: 'a/#' is not an MQTT topic.",
        ),
        (
            "version: 1\nagent: {mqtt: {host: b, tls: {cert: /a}}}",
            "agent.mqtt.tls: A client certificate needs",
        ),
        (
            "version: 1\nagent: {mqtt: {host: b, port: 1883, password_file: /p}}",
            "agent.mqtt.password_file: The password would cross",
        ),
        (
            "version: 1\nagent: {allowed_roots: [data]}",
            "2:25 agent.allowed_roots[0]: 'data' is not absolute.",
        ),
        ("version: 1\nagent: {allowed_roots: [/etc]}", "2:25 agent.allowed_roots[0]: '/etc' must not hold"),
        (
            "version: 1\nagent: {allowed_roots: ['/data/{name}']}",
            "agent.allowed_roots[0]: '/data/{name}' is a template.",
        ),
        # names, matching
        (
            _volume(f"match: {{volume_id: vol-1}}, {FS}, {MOUNT}"),
            "3:32 volumes[0].match.volume_id: 'vol-1' is not an",
        ),
        (_volume(f"match: {{volume_id: {ID.upper()}}}, {FS}, {MOUNT}"), "is not an EBS volume ID"),
        (_volume(f"match: {{size: 5GB}}, {FS}, {MOUNT}"), "volumes[0].match.size: '5GB' is not a size."),
        (_volume(f"match: {{size: 500}}, {FS}, {MOUNT}"), "volumes[0].match.size: '500' is not a size."),
        (_volume(f"match: {{size: 2GiB..1GiB}}, {FS}, {MOUNT}"), "holds no size"),
        (_volume(f"match: {{device_name: ../x}}, {FS}, {MOUNT}"), "'../x' is not a device name"),
        (
            _volume(f"match: {{instance_group: g}}, {FS}, {MOUNT}"),
            "volumes[0].match: This would match every volume.",
        ),
        (_volume(f"match: {{}}, {FS}, {MOUNT}"), "volumes[0].match: This would match every volume."),
        (_volume(f"match: {{tags: {{}}}}, {FS}, {MOUNT}"), "volumes[0].match.tags: There is no tag in it."),
        (_volume(f"match: {{tags: {{a: 5}}}}, {FS}, {MOUNT}"), "volumes[0].match.tags.a: 5 is not text."),
        (_volume(f"match: {{tags: {{aws:x: y}}}}, {FS}, {MOUNT}"), "The tag 'aws:x' is not possible."),
        (_volume(f"match: {{type: gp9}}, {FS}, {MOUNT}"), "volumes[0].match.type: 'gp9' is not one of"),
        (_volume(f"{FS}, {MOUNT}"), "3:3 volumes[0]: The entry says of no volume."),
        (
            f"version: 1\nvolumes:\n- {{match: {{volume_id: {ID}}}, {FS}, {MOUNT}}}",
            "3:3 volumes[0].name: The key 'name'",
        ),
        *(
            (f"version: 1\nvolumes:\n- {{name: {name}, match: {{volume_id: {ID}}}, block: {{}}}}", words)
            for name, words in [
                ("by-id", "3:10 volumes[0].name: 'by-id' cannot be a name"),
                (ID, "cannot be a name"),
                ("a/b", "'a/b' is not a name"),
                ("..", "'..' is not a name"),
                ("-a", "'-a' is not a name"),
                ("é", "'é' is not a name"),
                ("a" * 64, "is not a name"),
                ("5", "volumes[0].name: 5 is a number here."),
                ("[]", "volumes[0].name: [] is not text."),
            ]
        ),
        # use
        (_use(FS), "volumes[0].filesystem: The entry has no mount."),
        (_use(MOUNT), "volumes[0].mount: The entry has no filesystem."),
        (_use("grow: true"), "volumes[0]: The entry does not say how the volume is used."),
        (_use(f"{FS}, {MOUNT}, block: {{}}"), "volumes[0].block: The entry has filesystem and mount too."),
        (_use("block: {}, grow: true"), "volumes[0].grow: A raw volume has no filesystem to grow."),
        (_use(f"{FS}, {MOUNT}, grow: yes"), "volumes[0].grow: 'yes' is not true or false."),
        (_use(f"{FS}, {MOUNT}, required: 1"), "volumes[0].required: 1 is not true or false."),
        (_use("block: {mode: '0777'}"), "volumes[0].block.mode: The mode 0777 is not one for a device node."),
        (_use("block: {owner: 'a:b'}"), "volumes[0].block.owner: 'a:b' is not a user's"),
        (
            _use(f"filesystem: {{type: zfs}}, {MOUNT}"),
            "volumes[0].filesystem.type: 'zfs' is not one of ext4, xfs or",
        ),
        (
            _use(f"filesystem: {{type: xfs, format: always}}, {MOUNT}"),
            "filesystem.format: 'always' is not one of",
        ),
        (
            _use(f"filesystem: {{type: xfs, label: much-too-long}}, {MOUNT}"),
            "A label of xfs has 12 characters",
        ),
        (_use(f"filesystem: {{type: xfs, label: '-x'}}, {MOUNT}"), "'-x' is not a filesystem label"),
        (
            _use(f"filesystem: {{type: ext4, mkfs_options: [-F]}}, {MOUNT}"),
            "filesystem.mkfs_options[0]: The option -F",
        ),
        (_use(f"filesystem: {{type: ext4, mkfs_options: -F}}, {MOUNT}"), "mkfs_options: '-F' is not a list."),
        (_use(f"{FS}, mount: {{path: /data/a, mode: 770}}"), "volumes[0].mount.mode: 770 is not a mode."),
        (_use(f"{FS}, mount: {{path: /data/a, mode: '0o770'}}"), "'0o770' is not a mode."),
        (
            _use(f"{FS}, mount: {{path: /data/a, options: [bind]}}"),
            "mount.options[0]: The option 'bind' is not",
        ),
        (_use(f"{FS}, mount: {{path: /data/a, options: ['ro,exec']}}"), "'ro,exec' is several options."),
        (
            _use(f"{FS}, mount: {{path: /data/a, options: [ro, rw]}}"),
            "mount.options[1]: The option 'rw' contradicts",
        ),
        (_use(f"{FS}, mount: {{path: data/a}}"), "volumes[0].mount.path: 'data/a' is not absolute."),
        (_use(f"{FS}, mount: {{path: /data/../etc}}"), "volumes[0].mount.path: '/data/../etc' holds . or .."),
        (_use(f"{FS}, mount: {{path: '/data/{{name}}/..'}}"), "holds . or .."),
        (
            _use(f"{FS}, mount: {{path: /srv/a}}"),
            "'/srv/a' cannot be used: it does not lie beneath /data or /mnt.",
        ),
        (_use(f"{FS}, mount: {{path: /data}}"), "'/data' cannot be used: it does not lie beneath"),
        (_use(f"{FS}, mount: {{path: /database/a}}"), "'/database/a' cannot be used"),
        (_use(f"{FS}, mount: {{path: '/{{name}}/a'}}"), "cannot be used: it does not lie beneath"),
        (_use(f"{FS}, mount: {{path: '/data/{{nme}}'}}"), "volumes[0].mount.path: {nme} is not a field."),
        (_use(f"{FS}, mount: {{path: '/data/{{tag:}}'}}"), "{tag:} is not a field."),
        (_use(f"{FS}, mount: {{path: '/data/{{name'}}"), "has a brace without its other half"),
        (
            _use(f"{FS}, {MOUNT}, tune: {{read_ahead: 4MB}}"),
            "volumes[0].tune.read_ahead: '4MB' is not a size.",
        ),
        (_use(f"{FS}, {MOUNT}, tune: {{read_ahead: 5B}}"), "The read-ahead '5B' is not possible."),
        (_use(f"{FS}, {MOUNT}, tune: {{scheduler: cfq}}"), "volumes[0].tune.scheduler: 'cfq' is not one of"),
        (
            _use(f"{FS}, {MOUNT}, snapshots: {{schedule: daily}}"),
            "snapshots.schedule: 'daily' is not a schedule.",
        ),
        (_use(f"{FS}, {MOUNT}, snapshots: {{schedule: 0 0 30 2 *}}"), "never comes"),
        (_use(f"{FS}, {MOUNT}, snapshots: {{schedule: 0 0 * * *, keep: 0}}"), "volumes[0].snapshots.keep: "),
        (_use("block: {}, snapshots: {schedule: 0 0 * * *, freeze: true}"), "no filesystem to freeze"),
        (
            _use(
                f"{FS}, {MOUNT}, snapshots: {{schedule: 0 0 * * *, lock: {{mode: compliance, duration: 5h}}}}"
            ),
            "snapshots.lock.duration: A snapshot is locked for whole days.",
        ),
        # classes and claims
        (_class("type: gp4"), "2:21 classes.c.type: 'gp4' is not one of"),
        (_class("type: gp2, iops: 100"), "classes.c.iops: The IOPS of gp2 volumes cannot be chosen."),
        (_class("type: st1, iops_per_gib: 1"), "classes.c.iops_per_gib: The IOPS of st1 volumes"),
        (
            _class("type: io1, iops: 100, throughput: 5"),
            "classes.c.throughput: The throughput of io1 volumes",
        ),
        (_class("type: io2"), "classes.c.type: io2 volumes need iops or iops_per_gib."),
        (_class("iops: 3000, iops_per_gib: 5"), "classes.c.iops_per_gib: iops is given too."),
        (_class("iops: '3000'"), "classes.c.iops: '3000' is not a whole number."),
        (_class("iops: 0"), "classes.c.iops: "),
        (_class("iops: true"), "classes.c.iops: true is not a whole number."),
        (_class("multi_attach: true"), "classes.c.multi_attach: gp3 volumes cannot be attached to several"),
        (
            _class("encrypted: false, kms_key_id: k"),
            "classes.c.kms_key_id: A key is given and encrypted is false.",
        ),
        (_claim("type: gp3", "size: 500GB"), "volumes[0].claim.size: '500GB' is not a size."),
        (_claim("type: gp3", "size: 500MiB"), "volumes[0].claim.size: A volume's size is whole GiB."),
        (_claim("type: gp3", "size: 65TiB"), "volumes[0].claim.size: A gp3 volume has 1GiB to 64TiB."),
        (_claim("type: st1", "size: 5GiB"), "volumes[0].claim.size: A st1 volume has 125GiB to 16TiB."),
        (_claim("type: gp3", "per: node"), "volumes[0].claim: The claim has no size."),
        (_claim("type: gp3", "size: 5GiB, per: rack"), "volumes[0].claim.per: 'rack' is not one of"),
        (_claim("type: gp3", "size: 5GiB, on_delete: x"), "volumes[0].claim.on_delete: 'x' is not one of"),
        (
            _claim("type: gp3", "size: 5GiB, delete_unheld_after: 30d"),
            "volumes[0].claim.delete_unheld_after: Volumes of this claim are never deleted",
        ),
        (
            _claim("type: gp3", "size: 5GiB, per: cluster, on_delete: delete, delete_unheld_after: 30d"),
            "volumes[0].claim.delete_unheld_after: Volumes of this claim are never deleted",
        ),
        (
            _claim("type: gp3", "size: 5GiB, on_delete: delete, delete_unheld_after: 1h"),
            "volumes[0].claim.delete_unheld_after: That is no time to keep a volume",
        ),
        (
            _claim("type: gp3", "from: snap-1"),
            "volumes[0].claim.from: 'snap-1' is not an EBS snapshot or volume ID.",
        ),
        (_claim("type: gp3", "size: 5GiB, form: x"), "volumes[0].claim.form: The key 'form' is not known."),
        (
            _claim(
                "type: gp3", "from: snap-01234567", f"filesystem: {{type: xfs, format: if-blank}}, {MOUNT}"
            ),
            "filesystem.format: A volume made from a snapshot or another volume is never formatted.",
        ),
        (
            _claim("type: io2, iops_per_gib: 5", "from: snap-01234567"),
            "volumes[0].claim: Class 'c' counts IOPS by the GiB, and the claim has no size.",
        ),
        (
            _claim("initialization_rate: 100", "size: 5GiB"),
            "volumes[0].claim.class: Class 'c' has initialization_rate",
        ),
        (
            _claim("type: io2, iops: 100, multi_attach: true", "size: 5GiB"),
            "volumes[0].claim.class: Volumes of class 'c' can be attached to several instances",
        ),
        (
            _volume(f"claim: {{class: x, size: 5GiB}}, {FS}, {MOUNT}"),
            "volumes[0].claim.class: There is no class 'x'.",
        ),
        (
            _claim("type: gp3", "size: 5GiB", f"match: {{volume_id: {ID}}}, {FS}, {MOUNT}"),
            "volumes[0].claim: The entry has match too.",
        ),
    ],
)
def test_each_mistake_is_named_at_its_place(text: str, expected: str) -> None:
    """A single mistake is a single problem, at the line and column of the key or value that is wrong."""
    found = find_messages(text)
    assert len(found) == 1, found
    assert expected in found[0]


def _two(first: str, second: str) -> list[str]:
    base = f"version: 1\nvolumes:\n- {{name: a, {FS}, {first}}}\n- {{name: b, {FS}, {second}}}"
    return find_messages(base)


def _at(path: str, match: str) -> str:
    return f"match: {{{match}}}, mount: {{path: '{path}'}}"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (
            _at("/data/a", f"volume_id: {ID}"),
            _at("/data/b", f"volume_id: {ID}"),
            f"{ID} is claimed by 'a' too.",
        ),
        (_at("/data/x", "size: 1GiB"), _at("/data/x/", "size: 2GiB"), "is claimed by 'a' too."),
        (
            _at("/data/{instance_name}", "size: 1GiB"),
            _at("/data/{instance_name}", "size: 2GiB"),
            "claimed by 'a'",
        ),
        (_at("/data/x", "size: 1GiB"), _at("/data/x/y", "size: 2GiB"), "lies inside the path of 'a'."),
        (_at("/data/x/y/z", "size: 1GiB"), _at("/data/x", "size: 2GiB"), "holds the path of 'a'."),
        (_at("/data/a", "size: 1GiB"), _at("/data/{name}/x", "size: 2GiB"), None),
        (_at("/data/{name}", "size: 1GiB"), _at("/data/a", "size: 2GiB"), "is claimed by 'a' too."),
        (_at("/data/{name}", "size: 1GiB"), _at("/data/{name}", "size: 2GiB"), None),
        (_at("/data/{volume_id}", "size: 1GiB"), _at("/data/{volume_id}", "size: 2GiB"), None),
        (_at("/data/x", "size: 1GiB"), _at("/data/xy", "size: 2GiB"), None),
        (
            _at("/data/x", f"volume_id: {ID}, instance_group: g"),
            _at("/data/x", f"volume_id: {ID}, instance_group: h"),
            None,
        ),
        (
            _at("/data/x", "size: 1GiB, instance_group: g"),
            _at("/data/x", "size: 2GiB"),
            "is claimed by 'a' too.",
        ),
        (
            _at("/data/x", "size: 1GiB"),
            _at("/data/x", "size: 2GiB, instance_group: g"),
            "is claimed by 'a' too.",
        ),
    ],
)
def test_entries_that_claim_the_same_are_named(first: str, second: str, words: str | None) -> None:
    """Two entries may not have one volume or one path on one node; on nodes of different groups they may."""
    found = _two(first, second)
    if words is None:
        assert found == []
    else:
        assert len(found) == 1, found
        assert words in found[0]
        assert found[0].startswith("4:")


def test_names_are_given_once() -> None:
    """The second entry of a name is the wrong one."""
    text = f"version: 1\nvolumes:\n{VALID}\n- {{name: a, match: {{size: 1GiB}}, block: {{}}}}"
    assert find_messages(text) == ["4:10 volumes[1].name: The name 'a' is taken by volumes[0]."]


def test_all_problems_are_reported_at_once_in_order() -> None:
    """Mistakes of every kind, syntax and contradictions too, come in one list, by line."""
    text = f"""\
version: 1
agnt: {{}}
agent: {{resync: 60}}
classes: {{c: {{type: st1, iops: 5, tgas: {{}}}}}}
volumes:
- {{name: a, match: {{volume_id: {ID}}}, filesystem: {{type: zfs}}, mount: {{path: /data/../x}}, grwo: 1}}
- {{name: a, match: {{volume_id: {ID}}}, block: {{}}, block: {{}}}}
- {{name: c, claim: {{class: c, size: 5GB}}, {FS}, mount: {{path: /srv/x, options: [ro, rw]}}}}
- {{name: d, match: {{size: 1GiB}}, {FS}, mount: {{path: "/data/{{foo}}"}}}}
"""
    problems = check_policy(text)
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    assert [p.where for p in problems] == [
        "agnt",
        "agent.resync",
        "classes.c.iops",
        "classes.c.tgas",
        "volumes[0].filesystem.type",
        "volumes[0].mount.path",
        "volumes[0].grwo",
        "volumes[1].name",
        "volumes[1].match.volume_id",
        "volumes[1].block",
        "volumes[2].claim.size",
        "volumes[2].mount.path",
        "volumes[2].mount.options[1]",
        "volumes[3].mount.path",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("version: 1\nvolums: []", "Did you mean volumes?"),
        (_use(f"filesystem: {{type: ext3}}, {MOUNT}"), "Did you mean ext4?"),
        (_use(f"filesystem: {{typ: ext4, type: ext4}}, {MOUNT}"), "Did you mean type?"),
        (_claim("type: gp3", "size: 5GiB, clas: c"), "Did you mean class?"),
        (_use(f"{FS}, {MOUNT}, tune: {{read_ahead: 4mb}}"), "Did you mean 4MiB?"),
        (_use(f"{FS}, mount: {{path: /data/a, mode: 770}}"), '"0770"'),
        ("version: 1\nclasses: {c: {tags: {a: true}}}", '"true"'),
    ],
)
def test_hints_say_what_was_meant(text: str, hint: str) -> None:
    """A slip is answered with what was probably meant."""
    (problem,) = check_policy(text)
    assert problem.hint is not None
    assert hint in problem.hint


def test_a_wrong_part_causes_no_second_problem() -> None:
    """What was left out because it was wrong is not reported again as missing."""
    (found,) = find_messages(_use("filesystem: {type: zfs}, mount: {path: /data/a}"))
    assert "zfs" in found
    (found,) = find_messages("version: 1\nclasses: {c: {type: gp9, iops: 5, throughput: 5}}")
    assert "gp9" in found
    assert len(find_messages(f"version: 1\nagent: {{allowed_roots: [data]}}\nvolumes:\n{VALID}")) == 1


def test_no_more_problems_than_anyone_reads() -> None:
    """A file of nothing but mistakes gives a list that ends."""
    problems = check_policy("version: 1\n" + "".join(f"k{n}: 1\n" for n in range(5000)))
    assert len(problems) <= MAX_PROBLEMS
