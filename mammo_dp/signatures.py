# SPDX-License-Identifier: Apache-2.0
"""Signatures and docstrings without the imports of the module: what help texts are made from.

Modules of commands import torch, which takes seconds; their help needs the types of their flags
only. A stub has the signature and the docstring of a function, and an empty body. Flags that
several commands share stand in one function of their module, to which each passes ``**options``;
the stub lists them as if each command had them itself.
"""

import ast
import re
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
    if found.args.kwarg is not None:
        found = _with_shared_flags(found, _definitions(module))
    body = [found.body[0] if ast.get_docstring(found) else ast.Pass()]
    described = ast.FunctionDef(
        name=name, args=found.args, returns=found.returns, decorator_list=[], body=body
    )
    # Not in the name of its module: parsers import what a function says that it comes from, and
    # look for its name in the packages above.
    function: Callable[..., None] = _evaluated(described, module, {"__name__": "__main__"})[name]
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


def _with_shared_flags(function: ast.FunctionDef, known: Mapping[str, ast.stmt]) -> ast.FunctionDef:
    """The function with the keywords and the help of the one to which it passes ``**options``.

    Raises:
        LookupError: If that is no function of its module.
    """
    own, name = function.args, function.args.kwarg.arg if function.args.kwarg else ""
    callees = [
        known.get(call.func.id)
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and any(k.arg is None and ast.unparse(k.value) == name for k in call.keywords)
    ]
    if len(callees) != 1 or not isinstance(shared := callees[0], ast.FunctionDef):
        raise LookupError(f"{function.name}: passes **{name} to no function of its module.")
    taken = {one.arg for one in own.kwonlyargs}
    added = [
        (one, default)
        for one, default in zip(shared.args.kwonlyargs, shared.args.kw_defaults, strict=True)
        if one.arg not in taken
    ]
    arguments = ast.arguments(
        posonlyargs=own.posonlyargs,
        args=own.args,
        vararg=own.vararg,
        kwonlyargs=[*own.kwonlyargs, *(one for one, _ in added)],
        kw_defaults=[*own.kw_defaults, *(default for _, default in added)],
        kwarg=None,
        defaults=own.defaults,
    )
    entries = _entries(ast.get_docstring(shared) or "")
    described = "\n".join(entries[one.arg] for one, _ in added)
    text = ast.get_docstring(function) or ""
    text = text.replace(_entries(text)[name], described)
    return ast.FunctionDef(
        name=function.name,
        args=arguments,
        returns=function.returns,
        decorator_list=[],
        body=[ast.Expr(ast.Constant(text))],
    )


def _entries(text: str) -> dict[str, str]:
    """Lines of each argument in the section ``Args`` of a docstring, by name."""
    _, _, section = text.partition("\nArgs:\n")
    section, _, _ = section.partition("\n\n")
    parts = re.split(r"^(?=    \w)", section, flags=re.MULTILINE)[1:]
    return {part.strip().partition(":")[0]: part.rstrip("\n") for part in parts}


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
