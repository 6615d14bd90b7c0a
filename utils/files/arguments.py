"""Check whether the values of a config have the types that its class declares."""

import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin


def only_arguments(config: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Return the part of a config that the class's constructor takes."""
    parameters = inspect.signature(schema).parameters
    return {name: value for name, value in config.items() if name in parameters}


def wrong_arguments(config: dict[str, Any], schema: Any) -> list[str]:
    """Return the values of a config that have other types than its class declares, as texts.

    Many of them do no harm, as diffusers and transformers accept more types than they declare.
    """
    parameters = inspect.signature(schema).parameters
    return [
        f"{name} is {value!r:.40}"
        for name, value in only_arguments(config, schema).items()
        if not takes(parameters[name], value)
    ]


def takes(parameter: inspect.Parameter, value: Any) -> bool:
    """Return whether a parameter's declaration allows a JSON value.

    A parameter without an annotation has its default's type. If the default is a number like 1e-5,
    None is not allowed, even where the annotation allows it.
    """
    default, annotation = parameter.default, parameter.annotation
    if annotation is inspect.Parameter.empty:
        annotation = type(default) if isinstance(default, bool | int | float | str) else Any
    return allows(annotation, value) and not (value is None and isinstance(default, float))


def allows(annotation: Any, value: Any) -> bool:
    """Return whether an annotation allows a JSON value.

    It is True for types that JSON does not have.
    """
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
