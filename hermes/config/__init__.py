"""Settings: documented dataclass fields, parts chosen by name, YAML files and `key=value` overrides.

A policy, a part, or any group of settings is a plain dataclass whose fields are its settings. `build` makes
one from plain values and `to_dict` is its inverse; `compose` makes a whole run's.
"""

from hermes.config.building import Part, Settings, build, check
from hermes.config.composition import Fallback, compose
from hermes.config.experiments import Extras, experiment_extras, experiment_title
from hermes.config.exporting import SettingRow, config_hash, resolved_yaml, settings_table
from hermes.config.files import available, config_source
from hermes.config.schema import setting, settings_of, to_dict

__all__ = [
    "Extras",
    "Fallback",
    "Part",
    "SettingRow",
    "Settings",
    "available",
    "build",
    "check",
    "compose",
    "config_hash",
    "config_source",
    "experiment_extras",
    "experiment_title",
    "resolved_yaml",
    "setting",
    "settings_of",
    "settings_table",
    "to_dict",
]
