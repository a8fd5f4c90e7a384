"""What a proposer sees of a candidate is the same whether it was just built or stands in the record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from table_study import TableEvaluator

from search.evaluate import Candidate
from search.genome import Genes
from search.ledger import Trial
from search.round import Round
from search.screening import Screening

GENES: Mapping[str, Any] = {"first": "pool", "second": "attention", "width": 2, "dead": 0}


class _Describing(TableEvaluator):
    def candidate(self, genes: Genes) -> Candidate:
        features = {"pools": 1.0, "mean width": 2.5}
        return replace(super().candidate(genes), active=frozenset({"first", "second"}), features=features)


class _Unasked(_Describing):
    def candidate(self, genes: Genes) -> Candidate:
        raise AssertionError("it stands in the record")


def test_a_candidate_from_the_record_is_screened_as_the_one_that_was_built() -> None:
    evaluator = _Describing()
    built = Screening(evaluator, {}, evaluator.genome)(GENES)
    assert built is not None
    assert built.features == {"pools": 1.0, "mean width": 2.5}
    made = Round(number=0, first=0)
    made.ask(evaluator.candidate(GENES), proposer="random")
    (asked,) = made.asked
    document = json.loads(json.dumps(dict(asked.document)))
    heard = Screening(_Unasked(), {}, evaluator.genome)
    heard.hear(Trial(0, asked.spec, "done", document), GENES)
    assert heard(GENES) == built
