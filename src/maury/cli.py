"""The command line: every command by its name, and how it ends. What each does is in `maury.commands`."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from maury import __version__
from maury.commands import check, fetch, instruments, models, survey
from maury.commands.console import BAD_INPUT, err, out, print_error, speaking
from maury.commands.doctor import doctor
from maury.commands.explain import explain
from maury.commands.infer import demo, infer
from maury.commands.progress import Stopped
from maury.commands.report import report
from maury.commands.serve import serve
from maury.commands.train import reproduce, simulate, train
from maury.errors import MauryError
from maury.files import first_line
from maury.names import nearest

_QUOTED = re.compile(r"'([^']*)'")


class _Suggesting(TyperGroup):
    """Errors of a choice end with the one that was meant; those of a command do already."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None
        except typer.BadParameter as error:
            # "'sien' is not one of 'sine', 'three', 'five'."
            given, *known = _QUOTED.findall(error.message) or [""]
            near = nearest(given, known) if "is not one of" in error.message else None
            if near:
                reason = error.message.removeprefix("Value error, ").rstrip(".")
                error.message = f"{reason}; did you mean {near!r}?"
            raise


app = typer.Typer(
    cls=_Suggesting,
    help="A stellar spectrum in, a calibrated and verified posterior over the star's parameters out.",
    epilog="Example: maury infer apVisit-r13-9518-57729-104.fits --output results",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (infer, demo, report, explain, serve, train, simulate, reproduce, doctor):
    app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(instruments.app, name="instruments")
app.add_typer(check.app, name="check")
app.add_typer(fetch.app, name="fetch")
app.add_typer(survey.app, name="survey")

INTERNAL = 1
# As shells have it of a process that Ctrl-C has ended.
STOPPED = 130


def _version(show: bool) -> None:
    if show:
        out.print(f"maury {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: bad input exits with 2, Ctrl-C with 130, an internal error with 1, each with one line unless ``--debug``."""
    debug = "--debug" in sys.argv
    try:
        with speaking():
            app()
    except Stopped as stopped:
        err.print(
            ": ".join(filter(None, ("stopped", str(stopped)))),
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(STOPPED)
    except MauryError as error:
        if debug:
            raise
        print_error(str(error))
        sys.exit(BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        message = f"internal error, please report it: {type(error).__name__}: {first_line(error)}"
        err.print(message, style="red", highlight=False, soft_wrap=True)
        sys.exit(INTERNAL)


if __name__ == "__main__":
    main()
