"""The reference of the command lines has every command and option, and nothing of this machine."""

import pytest

from tests.docs.cli import commands_of, options_of, programs, reference
from tests.docs.markdown import ROOT

PAGE = reference()


@pytest.mark.parametrize("program", list(programs()))
def test_every_command_and_option_is_on_the_page(program: str) -> None:
    for name, command in commands_of(program).items():
        title = f"{program} {name}".strip()
        _, heading, rest = PAGE.partition(f"\n## `{title}`\n")
        assert heading, title
        section = rest.partition("\n## ")[0]
        options = {one for one in options_of(command) if one.startswith("-")} - {"--help"}
        assert [one for one in sorted(options) if one not in section] == []


def test_the_page_is_the_same_on_every_machine() -> None:
    assert str(ROOT) not in PAGE
