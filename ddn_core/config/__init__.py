"""From a config file to parameter groups.

stepping.py     settings of a group's step, and of what is done with a bad one
first_order.py  optimizers of torch that a config can name
scheduler.py    schedules of the learning rate
schema.py       what a config file may say
plugins.py      which plugins a config may use, and which it needs
json_schema.py  the same as JSON Schema, for editors
load.py         TOML or JSON -> Config, with errors that give the path into the file
overrides.py    --set groups.0.damping.value=1e-3
grouping.py     globs on parameter names -> which group takes which parameter
provenance.py   the resolved config: all defaults, and the versions of everything that was used
"""

from ddn_core.config.first_order import Baseline, FallbackTable, FirstOrder
from ddn_core.config.load import load_config, parse_config
from ddn_core.config.plugins import PluginsConfig
from ddn_core.config.schema import Config, CurvatureConfig, GroupConfig, RecordConfig, TrainingConfig
from ddn_core.config.stepping import GroupSettings, StepConfig

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
    "TrainingConfig",
    "load_config",
    "parse_config",
]
