"""Which mirrors to build from: the host's own Debian ones when it runs the same suite. Reads apt's files, no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["host_sources", "parse_deb822", "parse_list"]

_KEYRING = "debian-archive-keyring"
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One suite at one place (sources.list(5)). `signed_by` is empty when apt's own trust decides."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    architectures: tuple[str, ...] = ()

    def __str__(self) -> str:
        options = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {options}{self.uri} {self.suite} main"


def host_sources(suite: str, architecture: str, apt: Path = Path("/etc/apt")) -> list[str]:
    """One-line entries of the host's Debian mirrors for this suite, its updates and its security updates.

    Empty when the host has none for the suite itself. Third parties' repositories are left out: other components,
    other keys, or other names.
    """
    wanted = (suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates")
    found = [
        source
        for source in _all(apt)
        if source.suite in wanted and _is_debian(source) and architecture in (source.architectures or (architecture,))
    ]
    if not any(source.suite == suite for source in found):
        return []
    return list(dict.fromkeys(str(source) for source in found))


def _all(apt: Path) -> Iterator[Source]:
    parts = apt / "sources.list.d"
    for path in (apt / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))):
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue  # there is none, or it is not for us to read
        yield from parse_deb822(text) if path.suffix == ".sources" else parse_list(text)


def _is_debian(source: Source) -> bool:
    if "main" not in source.components or urlsplit(source.uri).scheme not in ("http", "https", "file", "copy"):
        return False
    if source.signed_by:
        return Path(source.signed_by).name.startswith(_KEYRING)
    return "debian" in source.uri


def parse_list(text: str) -> Iterator[Source]:
    """Entries of the one-line style."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.partition("#")[0].strip())
        if match:
            pairs = (word.partition("=") for word in (match["options"] or "").split())
            options = {name.rstrip("+-").lower(): value for name, _, value in pairs}
            architectures = tuple(filter(None, options.get("arch", "").split(",")))
            components = tuple(match["components"].split())
            yield Source(match["uri"], match["suite"], components, options.get("signed-by", ""), architectures)


def parse_deb822(text: str) -> Iterator[Source]:
    """Entries of the deb822 style, one for each URI and suite of a stanza."""
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {
            name.strip().lower(): " ".join(value.split())
            for name, value in re.findall(r"(?m)^([^\s:]+):((?:.*(?:\n[ \t].*)*))", stanza)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(
                    uri,
                    suite,
                    tuple(fields.get("components", "").split()),
                    fields.get("signed-by", ""),
                    tuple(fields.get("architectures", "").split()),
                )
