"""What a user may get wrong in section watchdog."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.config.file import resolve


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hang_s=2", "hang_s: found 2; allowed: 0 (endless), or at least 5 seconds"),
        ("silence_s=-1", "silence_s: found -1.0; allowed: a number >= 0"),
        ("init_s=soon", "init_s: found str 'soon'; allowed: number"),
        ("straggler_ratio=0.9", "straggler_ratio: found 0.9; allowed: 0 (never), or a number > 1"),
        ("straggler_ratio=.nan", "straggler_ratio: found nan; allowed: a number >= 0"),
    ],
)
def test_a_patience_that_makes_no_sense_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError) as refused:
        resolve("proxy", overrides=[f"watchdog.{text}"], aliases={})
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_the_watchdog_can_be_switched_off():
    keys = ("init_s", "hang_s", "silence_s", "straggler_ratio")
    config = resolve("proxy", overrides=[f"watchdog.{key}=0" for key in keys], aliases={}).config
    assert [getattr(config.watchdog, key) for key in keys] == [0, 0, 0, 0]
