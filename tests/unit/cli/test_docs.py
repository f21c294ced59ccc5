"""What README and docs say about commands and policies holds."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import typer.core
import typer.main
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from typer.testing import CliRunner

from agent.cli.app import app
from agent.policy.reading import check_policy

ROOT = Path(__file__).parents[3]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^ *```(?:sh|bash|console)?(?: node)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^ *|[$(|&;] ?|sudo |bin/)ebs-agent ((?:[^|&;<>)]|(?<=#).)*?)(?=[|&;<>)]|$)")
_SPAN = re.compile(r"`(?:sudo )?(?:\S*/)?ebs-agent ([^`]+)`")


def test_every_command_is_documented() -> None:
    """docs/commands.md has one row for each command there is, and none for others."""
    rows = re.findall(r"^\| `([a-z][a-z-]*)[ `]", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert sorted(rows) == sorted(group.commands)


def test_documented_options_exist() -> None:
    """Each option that docs/commands.md names in a command's row is one of that command's."""
    text = (ROOT / "docs/commands.md").read_text()
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for row in re.findall(r"^\| (`[a-z].*?) \|", text, re.MULTILINE):
        command = group.commands[re.split(r"[` ]", row)[1]]
        assert set(re.findall(r"--[a-z-]+", row)) <= set(list_options(command)), row


def test_every_command_answers_in_json() -> None:
    """Each command and each below it has ``--json``, but for those that answer nothing."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    without = {name for name, command in list_commands(group) if "--json" not in set(list_options(command))}
    assert without == {"run", "demo", "csi-controller"}


def list_commands(group: typer.core.TyperGroup) -> Iterator[tuple[str, Any]]:
    """Return the commands of a group and of the groups below it that can be called."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from list_commands(command)
        else:
            yield name, command


def list_options(command: Any) -> Iterator[str]:
    """Return the options of a command and of those below it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for below in getattr(command, "commands", {}).values():
        yield from list_options(below)


def test_every_command_shown_is_one() -> None:
    """Each ``ebs-agent …`` of README and docs has a command and options that there are, and all it needs."""
    shown = list(list_shown())
    assert len(shown) > 35
    for page, words in shown:
        assert find_misuse(words) is None, f"{page}: {' '.join(words)}: {find_misuse(words)}"


def list_shown() -> Iterator[tuple[str, list[str]]]:
    """Return the words after ``ebs-agent`` of each line of a block to paste, with the page it is on."""
    for page in PAGES:
        if page.name == "examples.md":
            continue  # mistakes and all, run by tests/loop/test_examples.py
        for block in _BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                for said in _COMMAND.findall(line):
                    yield page.name, shlex.split(said, comments=True)


def test_every_command_spoken_of_is_one() -> None:
    """Each ``ebs-agent …`` within a sentence has a command and options that there are."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    of_all = set(list_options(group))
    spans = [(page.name, said) for page in PAGES for said in _SPAN.findall(page.read_text())]
    assert len(spans) > 50
    for page_name, said in spans:
        words = re.findall(r"[^\s\[\]|=]+", said)
        command = words[0]
        assert command.startswith("-") or command in {*group.commands, "COMMAND"}, f"{page_name}: {said}"
        options = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        known = set(list_options(group.commands[command])) if command in group.commands else set()
        assert options <= {*known, *of_all, "--help"}, f"{page_name}: {said}"


def find_misuse(words: list[str]) -> str | None:
    """Return what is wrong with the words of a command, as the program itself would say it."""
    command: Any = typer.main.get_command(app)
    rest, context = list(words), None
    try:
        while True:
            context = command.make_context(str(command.name), rest, parent=context)
            if not isinstance(command, typer.core.TyperGroup):
                return None
            _, command, rest = command.resolve_command(context, context._protected_args + context.args)
    except typer.Exit:
        return None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())


@pytest.mark.parametrize("words", [["statsu"], ["status", "--jsn"], ["expand", "a"], ["csi", "migrat"]])
def test_wrong_use_is_found(words: list[str]) -> None:
    """What reads the pages tells what nobody could run."""
    assert find_misuse(words) is not None


def test_help_says_what_the_page_says() -> None:
    """Each command's help shows every option of its row, has a sentence, and every option has words."""
    rows = re.findall(r"^\| (`[a-z].*?) \|", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for row in rows:
        command = group.commands[re.split(r"[` ]", row)[1]]
        helped = CliRunner().invoke(app, [str(command.name), "--help"]).output
        if not isinstance(command, typer.core.TyperGroup):
            assert set(re.findall(r"--[a-z-]+", row)) <= set(re.findall(r"--[a-z-]+", helped)), row
        for name, below in list_commands(group):
            assert str(below.help).strip().endswith("."), name
            for option in below.params:
                is_shown = option.name != "help" and not getattr(option, "hidden", False)
                assert getattr(option, "help", None) or not is_shown, f"{name}: {option.name}"


def test_policy_of_the_readme_is_valid() -> None:
    """The policy a newcomer copies from README has no problems."""
    (policy,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert check_policy(policy) == []


def test_policies_of_pages_are_valid() -> None:
    """So is each whole policy of the recipes and of the pages to start with, as a file or in a command."""
    pages = [ROOT / "docs/recipes.md", *sorted((ROOT / "docs").glob("start-*.md"))]
    for page in pages:
        policies = re.findall(r"^ *version: 1\n.*?(?=^```|^END$)", page.read_text(), re.DOTALL | re.MULTILINE)
        assert policies, page
        for policy in policies:
            assert check_policy(dedent(policy)) == [], page


def test_every_recipe_is_whole() -> None:
    """Each says when it is of use, what is then seen, and how it goes wrong."""
    _, *recipes = (ROOT / "docs/recipes.md").read_text().split("\n## ")
    for recipe in recipes:
        for words in ("*When:*", "ou see", "*It goes wrong*"):
            assert words in recipe, recipe.splitlines()[0]


def test_template_of_the_game_day_has_its_service_shape() -> None:
    """The experiment is one that the fault injection service's model takes."""
    (template,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.DOTALL)
    model = ServiceModel(Loader().load_service_model("fis", "service-2"), "fis")
    shape = model.operation_model("CreateExperimentTemplate").input_shape
    assert shape is not None
    report = ParamValidator().validate({"clientToken": "one", **json.loads(template)}, shape)
    assert not report.has_errors(), report.generate_report()
    # As the service's reference of actions has aws:ebs:pause-volume-io, which its model says nothing of.
    found = json.loads(template)
    ((_, action),), ((name, target),) = found["actions"].items(), found["targets"].items()
    assert (action["actionId"], action["targets"]) == ("aws:ebs:pause-volume-io", {"Volumes": name})
    assert target["resourceType"] == "aws:ec2:ebs-volume"
    assert re.fullmatch(r"ALL|COUNT\([1-9]\d*\)|PERCENT\(\d+\)", target["selectionMode"])
    assert set(action["parameters"]) == {"duration"}
    assert re.fullmatch(r"PT(\d+[HMS])+", action["parameters"]["duration"])
    for permission in ("ec2:PauseVolumeIO", "ec2:DescribeVolumes", "tag:GetResources"):
        assert permission in (ROOT / "docs/recipes.md").read_text()


def test_links_lead_somewhere() -> None:
    """Every file README, docs/commands.md and docs/recipes.md link to exists."""
    for page in (ROOT / "README.md", ROOT / "docs/commands.md", ROOT / "docs/recipes.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
