"""The configuration of a run: its typed model, and how it is read, checked and written."""

from engine.config.load import config_of_text, load_config
from engine.config.presets import find_preset, list_presets
from engine.config.problems import ConfigError, Problem
from engine.config.resolve import require_paths, resolve
from engine.config.schema import RunConfig
from engine.config.write import digest, dump_toml, schema_json, update_toml

__all__ = [
    "ConfigError",
    "Problem",
    "RunConfig",
    "config_of_text",
    "digest",
    "dump_toml",
    "find_preset",
    "list_presets",
    "load_config",
    "require_paths",
    "resolve",
    "schema_json",
    "update_toml",
]
