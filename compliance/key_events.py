"""Lists the rules that cannot judge a log rebuilt from published key events, because their data was not published.

A rebuilt log has the seed, the hyperparameters, the times and the losses of the evaluations of the original log. Its
initialisation, the durations of its evaluations and its line numbers differ from the original. Most disclosure keys
(C11) are missing, and the files beside it (C19, C23) are not the submitted ones. The caller must say that a log is
rebuilt, so that the content of a log can never relax a rule.
"""

from __future__ import annotations

from typing import Any

from compliance.rule import Rule
from compliance.rule_list import RULES
from compliance.rules import directory_rules, lines_rules, plausibility_rules

_IDS = ("C3", "C11", "C19", "C23")
_FUNCTIONS: tuple[Rule[Any], ...] = (
    directory_rules.same_program,
    lines_rules.places,
    plausibility_rules.evaluation_on_the_clock,
)
UNKNOWN: tuple[Rule[Any], ...] = (*_FUNCTIONS, *(rule for rule in RULES if rule.id in _IDS))
