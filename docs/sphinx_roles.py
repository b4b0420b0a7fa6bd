# SPDX-License-Identifier: Apache-2.0
"""Docstrings on the site: roles such as ``:class:`Name``` become code, as editors show them."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc):`~?([^`]+)`")


class PlainRoles(griffe.Extension):
    """Replaces roles before the docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute that was collected."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value).replace("``", "`")
