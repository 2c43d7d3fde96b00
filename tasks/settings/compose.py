"""Settings of one doit command: as remembered, or composed by Hydra; strictly, with every problem reported at once."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from tasks.errors import ConfigError
from tasks.plain_data import plain
from tasks.settings import remembered, schema
from tasks.settings.conf_folder import IS_CHECKOUT, ROOT
from tasks.settings.locations import make_absolute


def load(words: Sequence[str], *, workdir: Path) -> list[schema.Config]:
    """One checked configuration for each combination of the sweeps in `words`.

    Args:
        words: Hydra overrides as typed.
        workdir: folder that relative paths in the settings start from (where the command was typed).

    Raises:
        ConfigError: with one line for each thing that is wrong, over all combinations.
    """
    configs: list[schema.Config] = []
    problems: dict[str, str] = {}
    for found, config in _combinations(words):
        if config:
            in_checkout = IS_CHECKOUT and config.artifacts == schema.Config.artifacts
            lost = make_absolute(config, workdir=workdir, artifacts=ROOT if in_checkout else workdir)
            problems |= {problem: problem for problem in lost}
            configs.append(config)
        problems |= found
    if problems:
        lines = (problem.replace("\n", "\\n") for problem in problems.values())
        raise ConfigError(list(dict.fromkeys(lines)))
    return configs


def as_yaml(config: schema.Config) -> str:
    """Every setting with its value."""
    import yaml

    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=math.inf)


def _combinations(words: Sequence[str]) -> list[tuple[dict[str, str], schema.Config | None]]:
    """Each combination of the sweeps: what is wrong with it, and its configuration if there is one."""
    if (configs := remembered.configs(words)) is not None:
        return [({}, config) for config in configs]
    began = time.time()
    from tasks.settings.hydra_compose import composed  # with Hydra and OmegaConf, which take longer than all else

    combinations, environment = composed(words)
    configs = [config for problems, config in combinations if config and not problems]
    if environment is not None and len(configs) == len(combinations):
        remembered.remember(words, configs, environment=environment, began=began)
    return combinations
