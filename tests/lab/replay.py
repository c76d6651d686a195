"""Outside: each selected item of the lab reports what became of it inside, as if it had run here."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.lab.job import ALIVE_EVERY_S, CHECKOUT
from tests.tally import tally

__all__ = ["Replay", "Session", "StartLab"]


class Session(Protocol):
    """A running lab, as `tests.lab.machine.Machine`."""

    def ended(self, timeout_s: float) -> bool: ...
    def kill(self) -> None: ...
    def lines(self) -> list[bytes]: ...
    def console_tail(self) -> str: ...


StartLab = Callable[[Sequence[str]], AbstractContextManager[Session]]
"""Starts a lab that runs pytest with these arguments; leaving the block waits for its end.

Raises whatever there may be, also pytest's own skip.
"""


class _Lost(RuntimeError):
    """No outcome will come."""

    def __init__(self, what: str, session: Session) -> None:
        super().__init__(what, session.console_tail())

    def __str__(self) -> str:
        what, console = self.args
        return f"{what}. Its console's end:\n{console}"


class _Crash(_Lost):
    """The machine's fault."""


class Replay:
    """A pytest plugin for the items of one directory: at the first of them the lab starts, with all that are selected.

    Reports are passed on as they come. An item that nothing comes of for `silence_s` seconds while the machine lives
    fails with the end of the lab's console.

    A machine that ends before its job, or that has not even said for `still_s` seconds that it lives, is begun again,
    a few times: guests in an emulated machine's KVM now and then bring that down (its emulator's registers, not what
    is tested). The tests of that file then run from its first on, for they build on one another; those that were
    reported stay as reported.
    """

    _CRASHES = 2

    def __init__(
        self,
        directory: Path,
        start: StartLab,
        silence_s: float,
        say: Callable[[str], None] = lambda text: None,
        *,
        still_s: float = 60 * ALIVE_EVERY_S,
    ) -> None:
        self._directory = directory
        self._start = start
        self._silence_s = silence_s
        self._still_s = still_s
        self._say = say
        self._crashes = 0
        self._stack = contextlib.ExitStack()
        self._session: Session | None = None
        self._trouble: BaseException | None = None
        """Why there is no lab (any more)."""
        self._selected: list[str] = []
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._finished: set[str] = set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in filter(self._is_ours, items):  # before `-m` selects
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.slow)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not self._is_ours(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._outcome(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        # What other items set up for a directory above ends as if this one had been run here.
        item.session._setupstate.teardown_exact(nextitem)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Also after Ctrl-C, and when the first failure is to be the last."""
        self._close(wait=self._finished.issuperset(self._selected))

    def _is_ours(self, item: pytest.Item) -> bool:
        return self._directory in item.path.parents

    def _outcome(self, item: pytest.Item) -> Iterable[pytest.TestReport]:
        try:
            if self._trouble is not None:
                raise self._trouble
            if self._session is None:
                self._begin(item)
            self._wait_until_finished(item)
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as trouble:  # noqa: BLE001  # is reported
            self._close(wait=False)
            self._trouble = trouble if isinstance(trouble, pytest.skip.Exception) else RuntimeError("the lab is gone")
            return [_made_here(item, trouble)]
        return [_report(item.config, data) for data in self._reports[item.nodeid]]

    def _wait_until_finished(self, item: pytest.Item) -> None:
        while True:
            try:
                return self._wait_for(item.nodeid)
            except _Crash as crash:
                if self._crashes == self._CRASHES:
                    raise
                self._crashes += 1
                self._say(f"{crash.args[0]}; begun again")
            self._close(wait=False)
            self._begin(item)

    def _begin(self, item: pytest.Item) -> None:
        ours = [each for each in item.session.items if self._is_ours(each)]
        self._selected = [each.nodeid for each in ours if each.path == item.path or each.nodeid not in self._finished]
        self._reports = {nodeid: found for nodeid, found in self._reports.items() if nodeid in self._finished}
        option = item.config.option
        options = [f"--tb={option.tbstyle}", *(["--showlocals"] if option.showlocals else [])]
        self._session = self._stack.enter_context(self._start([*options, *self._selected]))

    def _wait_for(self, nodeid: str) -> None:
        assert self._session is not None
        alive = told = time.monotonic()
        while nodeid not in self._finished:
            ended = self._session.ended(0.1)
            now = time.monotonic()
            if lines := self._session.lines():
                alive = now
                told = now if self._take(lines) else told
            elif ended:
                raise _Crash("the lab ended before this", self._session)
            if now - alive > self._still_s:
                raise _Crash(f"the lab stood still for {self._still_s:g} s", self._session)
            if now - told > self._silence_s:
                raise _Lost(f"nothing came of this for {self._silence_s:g} s", self._session)

    def _take(self, lines: list[bytes]) -> bool:
        """Whether any of them tells of a test."""
        events = [event for event in map(json.loads, lines) if "alive" not in event]
        for event in events:
            if "finished" in event:
                if event["finished"] not in self._finished:  # else counted already, before a crash
                    for row in event["tally"]:
                        tally(**row)
                self._finished.add(event["finished"])
            elif event["report"]["nodeid"] not in self._finished:  # else reported already, before a crash
                self._reports.setdefault(event["report"]["nodeid"], []).append(event["report"])
        return bool(events)

    def _close(self, *, wait: bool) -> None:
        if self._session is not None and not wait:
            self._session.kill()
        self._stack.close()


def _report(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    assert isinstance(report, pytest.TestReport)
    if isinstance(report.longrepr, list):  # where it was skipped; JSON has no tuples
        path, line, reason = report.longrepr
        report.longrepr = (str(path).replace(CHECKOUT, str(config.rootpath)), line, reason)
    return report


def _made_here(item: pytest.Item, trouble: BaseException) -> pytest.TestReport:
    """The report of an item that there is no lab for."""
    outcome = trouble
    if not isinstance(trouble, pytest.skip.Exception | pytest.fail.Exception):
        outcome = pytest.fail.Exception(f"{type(trouble).__name__}: {trouble}", pytrace=False)

    def raise_it() -> None:
        raise outcome

    call = pytest.CallInfo.from_call(raise_it, "setup")
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return report
