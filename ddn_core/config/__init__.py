"""Config files: their schema, how they are read, and the parameter groups that they describe.

stepping.py     settings of a group's step, and rules for steps that raise the loss or are not finite
first_order.py  optimizers of torch that a config can select
stopping.py     rules that end a run before its last epoch
scheduler.py    schedules of the learning rate
presets.py      named settings, and the default ones
schema.py       the tables and fields of a config file
plugins.py      the plugins that a config allows, and the distributions that it requires
json_schema.py  the schema as JSON Schema, for editors
load.py         TOML or JSON -> Config, with errors that give the path into the file
overrides.py    assignments such as --set groups.0.damping.value=1e-3
grouping.py     globs on parameter names -> the group of each parameter
provenance.py   the resolved config: all defaults, and the versions of Python, ddn, torch, BackPACK and the plugins
"""

from ddn_core.config.first_order import Baseline, FallbackTable, FirstOrder
from ddn_core.config.load import load_config, parse_config
from ddn_core.config.plugins import PluginsConfig
from ddn_core.config.schema import Config, CurvatureConfig, GroupConfig, RecordConfig, TrainingConfig
from ddn_core.config.stepping import GroupSettings, StepConfig
from ddn_core.config.stopping import StopConfig

__all__ = [
    "Baseline",
    "Config",
    "CurvatureConfig",
    "FallbackTable",
    "FirstOrder",
    "GroupConfig",
    "GroupSettings",
    "PluginsConfig",
    "RecordConfig",
    "StepConfig",
    "StopConfig",
    "TrainingConfig",
    "load_config",
    "parse_config",
]
