"""Whether the values of a config are of the types that its class declares."""

import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin


def only_arguments(config: dict[str, Any], schema: Any) -> dict[str, Any]:
    """What of a config a class's constructor takes."""
    parameters = inspect.signature(schema).parameters
    return {name: value for name, value in config.items() if name in parameters}


def wrong_arguments(config: dict[str, Any], schema: Any) -> list[str]:
    """The values of a config that are of other types than its class declares, each in words.

    Many of them do no harm: diffusers and transformers declare less than they take.
    """
    parameters = inspect.signature(schema).parameters
    return [
        f"{name} is {value!r:.40}"
        for name, value in only_arguments(config, schema).items()
        if not takes(parameters[name], value)
    ]


def takes(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether a parameter declares a JSON value. One without an annotation has its default's type;
    where that is a number like 1e-5, an annotation that allows None means nothing."""
    default, annotation = parameter.default, parameter.annotation
    if annotation is inspect.Parameter.empty:
        annotation = type(default) if isinstance(default, bool | int | float | str) else Any
    return allows(annotation, value) and not (value is None and isinstance(default, float))


def allows(annotation: Any, value: Any) -> bool:
    """Whether a JSON value is of an annotated type; True for those that JSON has no values of."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(allows(part, value) for part in arguments)
    if origin is Literal:
        return value in arguments
    if list in (origin, annotation) or tuple in (origin, annotation):
        if not isinstance(value, list | tuple):
            return False
        inner = [part for part in arguments if part is not Ellipsis]
        return not inner or all(any(allows(part, item) for part in inner) for item in value)
    if annotation in (None, types.NoneType):
        return value is None
    if annotation in (int, float):
        wanted = int if annotation is int else int | float
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, annotation) if annotation in (str, bool, dict) else True
