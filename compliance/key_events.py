"""Rules that logs rebuilt from published key events cannot meet: what they judge was not published.

A rebuilt log has the seed, the hyperparameters, the times and losses of the evaluations of the original. Its
initialisation, the lengths of its evaluations and its line numbers are not those of the original, most keys of
disclosure (C11) are missing, and the files beside it (C19, C23) are not those that were submitted. Only a caller
can say that logs are rebuilt: nothing inside of a log relaxes a rule.
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
