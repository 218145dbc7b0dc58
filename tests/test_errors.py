from fgbench.errors import in_one_line


def test_an_error_is_quoted_in_a_line_without_torchs_advice_on_its_logs():
    error = RuntimeError("no compiler\n  here\n\nSet TORCHDYNAMO_VERBOSE=1 for the full stack trace")
    assert in_one_line(error) == "RuntimeError: no compiler here"
