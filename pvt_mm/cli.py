"""The command lines of the tools: the only place that knows argparse.

A tool's ``main(argv)`` takes the command line without the program's name, ``sys.argv``'s by
default. It returns the exit code: 0, or 2 for a mistake that stderr names in one line; what else a
tool returns, its ``main`` says.
"""

from argparse import (
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
)
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

from pvt_mm.wording import some

__all__ = ["ArgumentTypeError", "BooleanOptionalAction", "CommandLine", "Namespace"]

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")


class CommandLine(ArgumentParser):
    """A parser that knows the arguments which several tools share.

    Args:
        tool: The file's name.
        description: What the tool does.
        options: Other arguments of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, tool: str, description: str, **options: Any) -> None:
        super().__init__(prog=tool, description=description, **options)

    def options(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """Parse a command line into the arguments of a function."""
        return vars(self.parse_args(argv))

    def add_flag(self, name: str, help: str) -> None:
        """Add an option without a value, False by default."""
        self.add_argument(name, action="store_true", help=help)

    def add_config(self) -> None:
        """Add the config file."""
        self.add_argument("config", help="config file")

    def add_cfg_options(self) -> None:
        """Add the changes of the config."""
        self.add_argument(
            "--cfg-options",
            nargs="+",
            action=_OptionAction,
            metavar="KEY=VALUE",
            help="change the config, e.g. train_dataloader.batch_size=4 model.backbone.arch=b1 "
            'key="[1,2]"; nested lists in quotes and without blanks',
        )

    def add_shape(self, help: str) -> None:
        """Add the size of images."""
        self.add_argument("--shape", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help=help)

    def add_device(self) -> None:
        """Add the device."""
        self.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")

    def add_json(self, help: str) -> None:
        """Add a file for machines to read."""
        self.add_argument("--json", metavar="FILE", help=help)

    def add_compile(self) -> None:
        """Add :func:`pvt_mm.training.speed.compile_backbone`."""
        self.add_flag(
            "--compile",
            "compile the backbone by torch.compile: minutes at the start, faster afterwards",
        )

    def add_run_arguments(self) -> None:
        """Add what training and testing share."""
        self.add_flag(
            "--channels-last",
            "keep the maps of neck and heads channels-last in memory; for GPUs with --amp",
        )
        self.add_compile()
        self.add_argument("--work-dir", help="folder of logs and results; default work_dirs/CONFIG")
        self.add_cfg_options()
        self.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
        self.add_argument(
            "--local-rank", "--local_rank", type=int, default=0, help="set by launchers"
        )


class _OptionAction(DictAction):
    """mmengine's KEY=VALUE parsing, with a message in place of a traceback."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if not value.partition("=")[0] or "=" not in value:
                raise ArgumentError(self, f"expected KEY=VALUE, got {value!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise ArgumentError(self, str(error)) from error
        except RecursionError:  # mmengine's parser, which takes "=[[1,2],[3]]" for a nested list
            raise ArgumentError(self, f"brackets that cannot be read in {some(values)}") from None
