"""The command line: one file for each verb; here errors become one line and an exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated

import typer

from fgbench.cli.baseline import baseline
from fgbench.cli.cancel import cancel
from fgbench.cli.check import check
from fgbench.cli.compare import compare
from fgbench.cli.doctor import doctor
from fgbench.cli.history import history
from fgbench.cli.list import list_registered
from fgbench.cli.merge import merge
from fgbench.cli.plain_words import in_plain_words
from fgbench.cli.plot import plot
from fgbench.cli.predict import predict
from fgbench.cli.pretrain import pretrain
from fgbench.cli.report import report
from fgbench.cli.reproduce import reproduce
from fgbench.cli.run import run
from fgbench.cli.run_options import HelpLast
from fgbench.cli.signals import OrderlyStop
from fgbench.cli.status import status
from fgbench.ending import end_quickly
from fgbench.errors import UsageError
from fgbench.version import __version__

USAGE = 2
DEFECT = 70  # as in sysexits.h; Python's 1 would say that every job failed, or that a ratio got worse
BY_SIGNAL = 128  # plus the signal's number, as in a shell: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP
INTERRUPTED = BY_SIGNAL + signal.SIGINT

app = typer.Typer(
    help="The referee for training without backpropagation: matched jobs that differ in the method alone.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fgbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(cls=HelpLast)(run)
app.command()(plot)
app.command()(report)
app.command()(merge)
app.command()(status)
app.command()(cancel)
app.command()(baseline)
app.command()(check)
app.command()(compare)
app.command()(history)
app.command()(predict)
app.command()(reproduce)
app.command()(pretrain)
app.command("list")(list_registered)
app.command()(doctor)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2.

    A defect of fgbench's own is a traceback and exit code 70.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # what a terminal cannot show must not end a command
        sys.stdout.reconfigure(errors="replace")  # standard error never fails for it
    atexit.register(end_quickly)
    stop = OrderlyStop()
    try:
        with stop:
            code = app(standalone_mode=False)
    except UsageError as error:
        code = _say(str(error), USAGE)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        # Typer may bring its own copy of click, so that its errors cannot be told by their class.
        if hasattr(error, "format_message"):
            code = _say(in_plain_words(error.format_message()) or "see fgbench --help", USAGE)
        else:
            traceback.print_exc()
            code = DEFECT
    if code == INTERRUPTED:  # or Typer made it so
        code = _say(f"interrupted by {stop.name}", BY_SIGNAL + stop.number)
    sys.exit(code or 0)


def _say(line: str, code: int) -> int:
    print(f"fgbench: {' '.join(line.split())}", file=sys.stderr)
    return code
