"""What is read from the events that a task left."""

from __future__ import annotations

from fgbench.cluster.answers import ends_of
from fgbench.cluster.node import Died
from fgbench.running.messages import Built, Noted, encode


def test_where_a_unit_ran_and_how_its_worker_died_are_found_however_long_the_lines_are(tmp_path):
    built = Built(10, "w", "b", "n1")
    died = Died("oom", "CUDA out of memory: " + "x" * 10_000)
    file = tmp_path / "unit.jsonl"
    file.write_text(encode(Noted("forward", ("y" * 10_000,))) + encode(built) + encode(died))
    assert ends_of(file) == (built, died)
    file.write_text(encode(built) + encode(died) + encode(built))
    assert ends_of(file) == (built, None), "another worker went on"
