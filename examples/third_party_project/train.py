"""Train one of the project's configs: python train.py CONFIG [--cfg-options KEY=VALUE ...]."""

from argparse import ArgumentParser
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner


def main() -> None:
    """Read the command line and train."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(Path("work_dirs") / Path(args.config).stem)
    Runner.from_cfg(cfg).train()


if __name__ == "__main__":
    main()
