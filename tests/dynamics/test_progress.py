"""Progress bars: shown or not, as asked."""

import io
import sys

import pytest

from gradflow.dynamics import progress


@pytest.mark.parametrize(("terminal", "show", "shown"), [(True, None, True), (False, None, False), (False, True, True), (True, False, False)])  # fmt: skip
def test_a_bar_is_shown_on_a_terminal_or_where_asked_and_never_in_silence(monkeypatch, terminal, show, shown):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.silent():
        assert progress.bar(3, " steps", "x", show=show).disable
    with progress.bar(3, " steps", "x", show=show) as after:
        assert after.disable is not shown
