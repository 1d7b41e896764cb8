"""Settings: documented dataclass fields, parts chosen by name, YAML files and `key=value` overrides.

A policy, a part, or any group of settings is a plain dataclass whose fields are its settings. `build` makes
one from plain values and `to_dict` is its inverse; `compose` makes a whole run's.
"""

from hermes.config.composition import Extras, Fallback, available, compose, config_source, experiment_extras
from hermes.config.schema import Part, setting
from hermes.config.specs import Row, build, config_hash, resolved_yaml, settings_table, to_dict

__all__ = [
    "Extras",
    "Fallback",
    "Part",
    "Row",
    "available",
    "build",
    "compose",
    "config_hash",
    "config_source",
    "experiment_extras",
    "resolved_yaml",
    "setting",
    "settings_table",
    "to_dict",
]
