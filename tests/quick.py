"""What takes most of the time of a config in mmengine, done once or not at all."""

import ast
import functools

import mmengine.config
import yapf.yapflib.yapf_api as formatter


def quicken_configs(patch=setattr):
    """Keep metafiles in memory and configs as they are.

    mmengine reads all 50 metafiles of a package for each file of it in a ``_base_``, and each
    Runner formats its config five times.
    """
    utils = mmengine.config.utils
    patch(utils, "load", functools.cache(utils.load))
    config = mmengine.config.config
    # OneDL's fork looks the name up where it comes from, at each call.
    patch(config if hasattr(config, "FormatCode") else formatter, "FormatCode", _unformatted)


def _unformatted(code, **style):
    ast.parse(code)  # the formatter refuses what is no Python, too
    return code, False
