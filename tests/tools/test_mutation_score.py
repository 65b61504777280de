"""What is made of cosmic-ray's report; and the record is of modules that are there."""

import json

import pytest

from tools import mutation_score

DIFF = """--- mutation diff ---
--- a/samkit/perturbation.py
+++ b/samkit/perturbation.py
@@ -34,7 +34,7 @@
 def f(a, b):
-    return a - b
+    return a + b
"""


def line(outcome, worker="normal", row=36):
    item = {"job_id": "1", "mutations": [{"start_pos": [row, 11]}]}
    result = {"worker_outcome": worker, "test_outcome": outcome, "diff": DIFF, "output": ""}
    return json.dumps([item, result])


def test_survivors_are_listed_by_line_and_what_was_left_out_does_not_count():
    dump = [
        line("survived", row=36),
        line("killed"),
        line(None, "skipped"),
        line("survived", row=2),
    ]
    found = mutation_score.tally("\n".join(dump))
    assert found["tried"] == 3
    survivor = {"old": "return a - b", "new": "return a + b"}
    assert found["survivors"] == [{"line": 2, **survivor}, {"line": 36, **survivor}]


def test_a_decorator_that_is_removed_leaves_nothing():
    gone = json.loads(line("survived"))
    gone[1]["diff"] = DIFF.partition(" def f")[0] + "-\n-@cache\n def f(a, b):\n"
    (survivor,) = mutation_score.tally(json.dumps(gone))["survivors"]
    assert (survivor["old"], survivor["new"]) == ("@cache", "")


@pytest.mark.parametrize("untried", [line("incompetent"), '[{"job_id": "1"}, null]'])
def test_what_was_not_tried_is_no_score(untried):
    with pytest.raises(RuntimeError, match="has not been tried"):
        mutation_score.tally(untried)


def test_every_core_module_has_a_score():
    found = mutation_score.load()
    assert list(found) == list(mutation_score.TESTS)
    for module, entry in found.items():
        assert entry["tests"] == mutation_score.TESTS[module]
        assert (mutation_score.ROOT / module).exists() and (
            mutation_score.ROOT / entry["tests"]
        ).exists()
        assert len(entry["survivors"]) < entry["tried"] / 4


def test_every_survivor_is_explained_and_nothing_else():
    survivors = {
        (module, survivor["old"])
        for module, entry in mutation_score.load().items()
        for survivor in entry["survivors"]
    }
    reasons = mutation_score.reasons()
    assert reasons.keys() - survivors == set() and survivors - reasons.keys() == set()
    assert all(reasons.values())


def test_an_unknown_module_is_named_with_those_that_there_are():
    message = r"no core module: samkit/no\.py; name samkit/perturbation\.py"
    with pytest.raises(SystemExit, match=message):
        mutation_score.main(["samkit/no.py"])
