"""Assemble the commands and turn errors into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

import typer

from omfuse._version import __version__
from omfuse.cli import console
from omfuse.errors import OmfuseError

# In the order of the work, each with its line in the overview; the module of a command has a
# function `command`, or `app` for a command group.
COMMANDS = {
    "rewrite": "Fuse every attention of a model.",
    "explain": "Say why a softmax is fused, or why not.",
    "inspect": "Show what an .onnx or .om holds.",
    "compile": "Compile a model into an .om.",
    "run": "Run an .onnx or .om.",
    "bench": "Measure a model, or two in turn.",
    "diff": "Compare two models with an error budget.",
    "pipeline": "Rewrite, compile, run and compare.",
    "op": "Build, install, test the operator.",
    "doctor": "Look at what this machine has.",
    "bundle": "Pack a model for a board.",
}

app = typer.Typer(
    name="omfuse",
    help="Fuse attention in ONNX models into FlashAttention and run them on Ascend NPUs.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"omfuse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


for _name, _line in COMMANDS.items():
    _module = importlib.import_module(f"omfuse.cli.{_name}_command")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name, short_help=_line)
    else:
        app.command(name=_name, short_help=_line)(_module.command)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the documented code."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except OmfuseError as error:
        console.print_error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        console.print_line("interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        error.show() if hasattr(error, "show") else console.print_line(error.format_message())
        code = error.exit_code
    sys.exit(code if isinstance(code, int) else 0)
