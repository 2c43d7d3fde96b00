"""Words `key=value` as Hydra overrides, sweeps written out."""

from collections.abc import Iterable
from itertools import accumulate, islice, product
from math import prod

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from tasks.errors import reason
from tasks.settings.text_values import quoted

# Settings that are dictionaries with free keys: Hydra would ask for `++` to add one.
OPEN_SETTINGS = ("tensorrt.profile.", "model.checkpoints.")

MOST_COMBINATIONS = 64  # of a sweep, each a fraction of a second to compose; every model in every precision is a dozen
MOST_CHARACTERS = 20_000  # of one word; Hydra's parser takes seconds for more
MOST_NESTED = 20  # brackets; the parsers call themselves for each


def expand(words: Iterable[str]) -> tuple[list[list[str]], list[str]]:
    """One list of plain Hydra overrides for each combination that the sweeps in `words` span.

    Returns:
        The combinations, made of the words that can be used, and a problem for each other word. No combination at all
        if they are too many.
    """
    choices, problems = [], []
    for word in words:
        try:
            choices.append(_choices(_parse(f"++{word}" if word.startswith(OPEN_SETTINGS) else word)))
        except HydraException as error:
            problems.append(f"{word}: not in Hydra's override grammar: {reason(error)}")
        except (ValueError, ArithmeticError) as error:  # also Python's: numbers of thousands of digits, NaN in a range
            problems.append(f"{word}: {reason(error)}")
    if (count := prod(map(len, choices))) > MOST_COMBINATIONS:
        return [], [*problems, f"the sweeps have {count:,} combinations; at most {MOST_COMBINATIONS} run at once"]
    return [list(combination) for combination in product(*choices)], problems


def _parse(word: str) -> Override:
    if len(word) > MOST_CHARACTERS:
        raise ValueError(f"longer than {MOST_CHARACTERS:,} characters")
    key, equals, value = word.partition("=")
    word = f"{key}{equals}{quoted(key.lstrip('+~'), value)}"
    if _depth(word) > MOST_NESTED:
        raise ValueError(f"more than {MOST_NESTED} brackets in each other")
    override = OverridesParser.create().parse_override(word)
    if not override.key_or_group:
        raise ValueError("no setting before the equals sign")
    return override


def _depth(word: str) -> int:
    """The most brackets that are open at once; those in text are counted as well, which is on the safe side."""
    return max(accumulate((c in "([{") - (c in ")]}") for c in word), default=0)


def _choices(override: Override) -> list[str]:
    sweep, key = override.value(), override.get_key_element()
    if sweep == {}:
        raise ValueError(f"an empty mapping changes nothing; to remove an entry, set ~{key.lstrip('+')}.NAME=")
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not isinstance(sweep, ChoiceSweep | RangeSweep):
        raise ValueError("this sweep does not list its values; write them out: a,b")
    sweep.shuffle = False  # it would list a range of any length, and steps have an order of their own
    values = list(islice(override.sweep_string_iterator(), MOST_COMBINATIONS + 1))
    if not 0 < len(values) <= MOST_COMBINATIONS:
        raise ValueError(f"this sweep has {f'more than {MOST_COMBINATIONS}' if values else 'no'} values")
    return [f"{key}={value}" for value in values]
