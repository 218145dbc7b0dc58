"""Options of a method or a dataset: fields of a frozen dataclass, written as `name:key=value,key=value`."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar, get_type_hints

from fgbench.errors import UsageError

T = TypeVar("T")

OR = "|"  # stands between several specs, of which the best is chosen


@dataclass(frozen=True)
class Option:
    """One option as `fgbench list` shows it."""

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] | None = None
    minimum: float | None = None


def option(
    default: Any, help: str, *, choices: tuple[str, ...] | None = None, minimum: float | None = None
) -> Any:
    """A dataclass field that can be set from the command line; `help` is its line in `fgbench list`."""
    return field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})


def options_of(owner: type) -> list[Option]:
    """The options of a dataclass, in the order of its fields."""
    return [
        Option(f.name, f.default, f.metadata["help"], f.metadata["choices"], f.metadata["minimum"])
        for f in dataclasses.fields(owner)
        if "help" in f.metadata
    ]


def split_spec(spec: str) -> tuple[str, str]:
    """`forward:tangents=4` → (`forward`, `tangents=4`)."""
    name, _, options = spec.partition(":")
    return name.strip(), options.strip()


def parse_options(owner: type[T], name: str, text: str) -> T:
    """Build `owner` from `key=value,key=value`.

    Raises:
        UsageError: an option does not exist, is given twice, or has a value that it cannot take.
    """
    known = {o.name: o for o in options_of(owner)}
    hints = get_type_hints(owner)
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if key not in known:
            having = f"its options are {', '.join(known)}" if known else "it has no options"
            raise UsageError(f"{name} has no option '{key}': {having}.")
        if not equals:
            raise UsageError(
                f"{name}: option '{key}' needs a value, as in {name}:{key}={known[key].default}."
            )
        if key in values:
            raise UsageError(f"{name}: option '{key}' is given twice.")
        values[key] = _convert(name, known[key], hints[key], value)
    return owner(**values)


def canonical(name: str, instance: Any) -> str:
    """The shortest spec that gives `instance`: its name and the options that differ from their defaults."""
    changed = [
        f"{o.name}={_text(getattr(instance, o.name))}"
        for o in options_of(type(instance))
        if o.default is MISSING or getattr(instance, o.name) != o.default
    ]
    return f"{name}:{','.join(changed)}" if changed else name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _convert(name: str, known: Option, kind: type, text: str) -> Any:
    where = f"{name}:{known.name}={text}"
    if known.choices and text not in known.choices:
        raise UsageError(f"{where}: must be one of {', '.join(known.choices)}.")
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"{where}: must be true or false.")
        return text == "true"
    try:
        value = kind(text)
    except ValueError:
        wanted = {"int": "a whole number", "float": "a number"}.get(kind.__name__, kind.__name__)
        raise UsageError(f"{where}: must be {wanted}.") from None
    if known.minimum is not None and not value >= known.minimum:
        raise UsageError(f"{where}: must be at least {known.minimum}.")
    return value
