"""What reaches a terminal as it is, and what is written out."""

from __future__ import annotations

import json

import pytest

from banger.cli.screen import as_json, say, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a line\n\tand another: ü 漢 \U0001f600 \xa0", "a line\n\tand another: ü 漢 \U0001f600 \xa0"),
        ("\x1b]52;c;aWQ=\x07", r"\x1b]52;c;aWQ=\x07"),
        ("a\rb\x08\x00", r"a\x0db\x08\x00"),
        ("\x7f\x80\x9b2J\x9f", r"\x7f\x80\x9b2J\x9f"),
        ("\udc9b\udcff", r"\x9b\xff"),  # bytes of a name that is no UTF-8
        ("\ud800\udbff\udc00\udfff", r"\ud800\udbff\udc00\udfff"),
    ],
)
def test_visible_is_the_text_with_control_characters_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_json_can_be_sent_to_any_terminal_and_is_read_back() -> None:
    """But for the first halves of pairs, which JSON takes together with what follows; no name of a file has one."""
    anything = {"told": "".join(chr(number) for number in range(0x10000) if not 0xD800 <= number < 0xDC00)}
    for indent in (None, 2):
        text = as_json(anything, indent=indent)
        assert visible(text) == text
        text.encode()
        assert json.loads(text) == anything
    assert as_json(["ü 漢"]) == '["ü 漢"]'


def test_say_can_say_anything(capsys: pytest.CaptureFixture[str]) -> None:
    say("".join(map(chr, range(0x10000))))
    assert [character for character in capsys.readouterr().out if ord(character) < 32] == ["\t", "\n", "\n"]
