# SPDX-License-Identifier: Apache-2.0
"""Signatures and docstrings without the imports of the module: what help texts are made from.

Modules of commands import torch, which takes seconds; their help needs the types of their flags
only. A stub has the signature and the docstring of a function, and an empty body.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

_PACKAGES = ("data_prep", "gan", "classifier", "mammo_dp")


def stub(target: str) -> Callable[..., None]:
    """Makes a function that can be described and not run.

    Of its module only what the signature refers to is evaluated: literals and constants from their
    definitions, classes by an import of the module that holds them.

    Args:
        target: ``module:function`` at the top level of a module, defined or imported there.

    Raises:
        LookupError: If there is no such function.
    """
    module, _, name = target.partition(":")
    found = _definitions(module).get(name)
    if isinstance(found, ast.ImportFrom):
        return stub(f"{found.module}:{found.names[0].name}")
    if not isinstance(found, ast.FunctionDef):
        raise LookupError(f"{target}: is no function of that module.")
    body = [found.body[0] if ast.get_docstring(found) else ast.Pass()]
    described = ast.FunctionDef(
        name=name, args=found.args, returns=found.returns, decorator_list=[], body=body
    )
    # Not in the name of its module: parsers import what a function says that it comes from.
    function: Callable[..., None] = _evaluated(described, module, {"__name__": __name__})[name]
    return function


def first_line(target: str) -> str:
    """First line of the docstring of a class or function; empty if it has none.

    Args:
        target: ``module:name``.

    Raises:
        LookupError: If there is no such class or function.
    """
    module, _, name = target.partition(":")
    found = _definitions(module).get(name)
    if not isinstance(found, ast.FunctionDef | ast.ClassDef):
        raise LookupError(f"{target}: is no class or function of that module.")
    return (ast.get_docstring(found) or "").partition("\n")[0]


def _value(module: str, name: str) -> object:
    """What a name at the top level of a module stands for."""
    found = _definitions(module).get(name)
    if isinstance(found, ast.ImportFrom):
        return _value(str(found.module), found.names[0].name)
    if isinstance(found, ast.Assign | ast.AnnAssign):
        return _evaluated(found, module, {})[name]
    if isinstance(found, ast.Import):
        return import_module(found.names[0].name)
    return getattr(import_module(module), name)


def _evaluated(node: ast.stmt, module: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Runs one statement of a module with the names that it refers to."""
    known = _definitions(module)
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id in known:
            namespace[part.id] = _value(module, part.id)
    code = ast.fix_missing_locations(ast.Module(body=[node], type_ignores=[]))
    exec(compile(code, f"<part of {module}>", "exec"), namespace)
    return namespace


@cache
def _definitions(module: str) -> Mapping[str, ast.stmt]:
    """Statements at the top level of a module of ours, by the name that each defines."""
    if module.partition(".")[0] not in _PACKAGES:
        return MappingProxyType({})
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"{module}: is no module.")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return {name: node for part in tree.body for name, node in _named(part)}


def _named(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            one = ast.ImportFrom(module=node.module, names=[alias], level=0)
            yield alias.asname or alias.name, ast.copy_location(one, node)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            yield name, ast.copy_location(ast.Import(names=[alias]), node)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name, node
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Name):
                    yield part.id, node
