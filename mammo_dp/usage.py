# SPDX-License-Identifier: Apache-2.0
"""What a parser says of a wrong word of a command line, in a sentence.

jsonargparse lists each type that it tried and what it was given whole; whoever typed one word
wrong wants the flag, the word, and what would be right.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from inspect import signature

_KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'dict'>": "names with values",
    "<class 'NoneType'>": "null",
}
_ITEMS = {"int": "whole numbers", "float": "numbers"}


def in_words(message: str) -> str:
    """Shortens what jsonargparse says; what is of another kind stays as it is.

    >>> in_words('''Parser key "steps":
    ...   Expected a <class 'int'>. Got value: many''')
    "--steps: 'many' is not a whole number."
    """
    if unknown := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        return _unknown(*unknown.groups())
    if (of := re.match(r'Parser key "([\w.]+)":\s', message)) is None:
        return message
    said = r"class_path '[\w.]+':\s+--([\w.]+: .* is not .*\.)$"  # by the parser of the class
    if len(of_class := re.findall(said, message, re.MULTILINE)) == 1:
        return f"--{of[1]}.init_args.{of_class[0]}"
    value, types = _wrong(message.strip())
    kinds = [_kind(text) for text in types]
    return f"--{of[1]}: {value!r} is not {_listed(kinds)}." if kinds and all(kinds) else message


def _wrong(message: str) -> tuple[str, list[str]]:
    """A value, and types that would do, as jsonargparse writes them; none in other messages."""
    key = r'Parser key "[\w.]+":\s+'
    if one := re.fullmatch(key + r"Expected an? (.+)\. Got value: (.*)", message):
        return one[2], [one[1]]
    several = r"Does not validate [^\n]*\s+Subtypes: \[([^\n]+)\]\n.*Given value: ([^\n]*)"
    found = re.fullmatch(key + several, message, re.DOTALL)
    if found is None or "class_path" in message:
        return "", []
    return found[2], re.split(r", (?![^\[]*\])", found[1])


def _kind(text: str) -> str:
    """A type in words; empty if there are none for it."""
    if words := re.fullmatch(r"typing\.Literal\[(.+)\]", text):
        return f"one of {words[1]}"
    if length := re.fullmatch(r"tuple with (\d+) elements", text):
        return f"a list of {length[1]}"
    if items := re.fullmatch(r"list\[(\w+)\]", text):
        return f"a list of {_ITEMS[items[1]]}" if items[1] in _ITEMS else "a list"
    return "names with values" if text.startswith("dict[") else _KINDS.get(text, "")


def _listed(words: Iterable[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last


def _unknown(name: str, option: str) -> str:
    """Says that a class has no such argument, and which one may be meant."""
    module, _, owner = name.rpartition(".")
    if module.startswith("lightning"):
        return f"{option!r} belongs to no class yet. Give --config FILE, or --model and --data."
    bases = getattr(import_module(module), owner).__mro__  # their arguments are passed on
    known = {word for base in bases for word in signature(base.__init__).parameters}
    near = get_close_matches(option, sorted(known), n=1)
    return (
        f"{name}: has no argument {option!r}."
        + (f" Did you mean {near[0]!r}?" if near else "")
        + f" The flag --model.help or --data.help with {name} lists all."
    )
