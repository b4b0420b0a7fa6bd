# SPDX-License-Identifier: Apache-2.0
from mammo_dp.report.markup import breakable, marked, parts

TEXT = """# Title

First `a<b>` words.

## Bounds

| who | at most |
| --- | --- |
| anybody | 0.5 |
| <i> | 1 |

- one & two
- three
"""


def test_a_statement_keeps_its_words_as_html() -> None:
    (none, first), (heading, second) = parts(TEXT)
    assert (none, heading) == ("", "Bounds")
    assert first == "<p>First <code>a&lt;b&gt;</code> words.</p>"
    assert second.count("<table") == second.count("<ul>") == 1
    assert '<tr><th scope="row">anybody</th><td>0.5</td></tr>' in second
    assert '<th scope="row">&lt;i&gt;</th>' in second
    assert "<li>one &amp; two</li><li>three</li>" in second


def test_names_break_at_strokes_and_never_lose_an_escape() -> None:
    assert breakable("a/b_<c>") == "a/<wbr>b_<wbr>&lt;c&gt;"
    assert marked("`x` < y") == "<code>x</code> &lt; y"
