import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, sys
from fgbench.ending import end_quickly

class Left:
    def __del__(self, write=os.write):
        write(2, b"left at the end\\n")

atexit.register(end_quickly)
atexit.register(print, "said by another handler", file=sys.stderr)
sys.left = Left()  # in no circle, which nothing would look for
{before}
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("sys.modules['triton'] = sys", ""),
        ("", "left at the end\n"),
    ],
)
def test_a_process_that_used_triton_says_nothing_of_what_it_leaves(before, said):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], text=True, capture_output=True, check=True
    )
    assert done.stderr == f"said by another handler\n{said}"


def test_the_words_of_an_error_are_still_read():
    program = PROGRAM.format(before="sys.modules['triton'] = sys; raise ValueError('so it ended')")
    done = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True)
    assert done.returncode == 1
    assert "ValueError: so it ended" in done.stderr
    assert "left" not in done.stderr.rpartition("ValueError")[2]
