# SPDX-License-Identifier: Apache-2.0
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.report.collect import ReportError, collect
from mammo_dp.report.page import breakable, marked, parts, report
from mammo_dp.report.sentences import findings, in_words, summary
from mammo_dp.runs import RunError, read_run
from tests.report.conftest import BECAUSE, Tree, build_tree

Make = Callable[..., Tree]
TEXT = """# Title

First `a<b>` words.
Second <i>line</i>.

## Bounds

| who | at most |
| --- | --- |
| anybody | 0.5 |
| <i> | 1 |

- one & two
- three
"""
VOID = {"meta", "img", "br", "wbr", "link"}


class Page(HTMLParser):
    """Tags with attributes, text, and whether tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = build_tree(tmp_path_factory.mktemp("page"), (1, 6), ("phantom", "gan"), leak=False)
    sheets = {name: str(tree.data(name)) for name in ("phantoms", "cohort", "synthetic")}
    report(runs=str(tree.runs), out=str(tree.root / "report"), sheets=sheets, title="A <b> title")
    return tree.root / "report"


def test_the_folder_holds_table_figures_page_and_record(built: Path) -> None:
    found = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    names = ("utility", "calibration", "roc", "bounds", "curves", "stress", "lineage")
    figures = {f"figures/{name}.svg" for name in names}
    assert found == {"run.json", "table.csv", "table.md", "report.html"} | figures
    assert read_run(built).is_finished


def test_all_that_was_read_is_an_input_by_its_place(make_tree: Make, tmp_path: Path) -> None:
    tree = make_tree()
    rows = collect(tree.runs)
    again = tree.runs / "baseline" / "on_other_patients"  # of the same split
    shutil.copytree(rows[0].evaluation.folder, again)
    report(runs=str(tree.runs), out=str(tmp_path / "report"))
    inputs = read_run(tmp_path / "report").inputs
    assert {"baseline/on_other_patients/metrics.json", "baseline/test_val/metrics.json"} <= {
        *inputs
    }
    assert "baseline/privacy.json" in inputs


def test_the_page_loads_nothing_from_elsewhere(built: Path) -> None:
    html = (built / "report.html").read_text()
    page = Page(html)
    assert not page.open
    forbidden = {"script", "link", "iframe", "object", "base"}
    assert not forbidden & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert (value or "").startswith(("#", "data:image/png;base64,"))
    assert all(url.startswith("#") for url in re.findall(r"url\(\"?([^)\"]*)", html))
    assert "@import" not in html


def test_the_page_is_accessible(built: Path) -> None:
    page = Page((built / "report.html").read_text())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    assert all(image["alt"] for image in images)
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 7
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in pictures)
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(head["scope"] in ("row", "col") for head in heads)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("h1") == 1
    regions = [a for tag, a in page.tags if tag == "div" and a.get("role") == "region"]
    assert len(regions) == tags.count("table") >= 8
    assert all(region["aria-label"] and region["tabindex"] == "0" for region in regions)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [a["href"] or "" for tag, a in page.tags if tag == "a"]
    named = [a["aria-labelledby"] or "" for _, a in page.tags if "aria-labelledby" in a]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert {label for labels in named for label in labels.split()} <= set(ids)
    assert ("html", {"lang": "en"}) in page.tags


def test_the_page_says_infinity_and_why(built: Path) -> None:
    text = " ".join(Page((built / "report.html").read_text()).text.split())
    assert "the end-to-end epsilon of a patient is infinity" in text
    assert BECAUSE in text
    assert "ε = infinity end to end (unit patient, δ = 0.0001)" in text


def test_an_epsilon_never_stands_without_unit_and_delta(built: Path) -> None:
    text = " ".join(Page((built / "report.html").read_text()).text.split())
    stated = list(re.finditer(r"ε = [\d∞i]", text))
    assert len(stated) >= 8
    for match in stated:
        following = text[match.end() : match.end() + 60]
        assert "unit patient" in following
        assert "delta 0.0001" in following or "δ = 0.0001" in following


def test_the_page_names_versions_hashes_commands_and_exclusions(built: Path) -> None:
    text = " ".join(Page((built / "report.html").read_text()).text.split())
    row = collect(built.parent / "runs")[0]
    for words in (
        row.privacy["artefact"]["sha256"],
        row.model.config_sha256[:12],
        f"torch {row.model.versions['torch']}",
        "mammo-dp test --run",
        "choice of the learning rate",
        "What is said of last.ckpt, where 1 < 2.",
        "tells members from others",
        "TRIPOD+AI 12e, 15, 23a",
        "not answered",
        "the body was chosen by eye",
        "A <b> title",
        "No patient: drawn by a procedure.",
    ):
        assert words in text


def test_the_same_inputs_are_reported_once_and_others_are_refused(
    make_tree: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree()
    out = str(tree.root / "report")
    report(runs=str(tree.runs), out=out)
    page = tree.root / "report" / "report.html"
    before = page.stat().st_mtime_ns
    capsys.readouterr()
    report(runs=str(tree.runs), out=out)
    assert page.stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    assert str(page) in shown
    assert "dp/eps6_phantom" in shown
    with pytest.raises(RunError, match="another configuration"):
        report(runs=str(tree.runs), out=out, title="Another")
    tree.fit("more", "cohort", weights="pretrain_phantom", epsilon=1)
    tree.test("more", 0.6)
    with pytest.raises(RunError, match="inputs"):
        report(runs=str(tree.runs), out=out)


def test_the_same_runs_give_the_same_page(tree: Tree, tmp_path: Path) -> None:
    for name in ("a", "b"):
        report(runs=str(tree.runs), out=str(tmp_path / name))
    assert (tmp_path / "a" / "report.html").read_bytes() == (
        tmp_path / "b" / "report.html"
    ).read_bytes()


def test_the_summary_names_the_guarantee_the_price_and_the_void(tree: Tree) -> None:
    sentences = summary(collect(tree.runs))
    assert sentences[0].startswith(
        "At ε = 5.48 end to end (unit patient, δ = 0.0001) the best model, started from phantom "
        "crops, reaches AUROC 0.610 [0.560, 0.660] on val."
    )
    assert "Trained without privacy, the best model reaches AUROC 0.752" in sentences[1]
    assert sentences[2].startswith("1 model was trained privately, but the end-to-end epsilon of a")
    assert "No membership attack exceeded a bound" in sentences[3]


def test_an_attack_beyond_its_bound_is_called_a_finding(make_tree: Make) -> None:
    rows = collect(make_tree((1,), leak=True).runs)
    (finding,) = findings(rows)
    assert finding.startswith("Finding: ")
    assert "dp/eps1_phantom" in finding
    assert not any("No membership attack exceeded a bound" in s for s in summary(rows))


def test_the_last_training_is_set_apart_only_where_it_is_not_all(tree: Tree) -> None:
    _, phantom, gan = collect(tree.runs)
    assert phantom.own
    assert gan.own
    assert "The last training" not in " ".join(in_words(phantom.own, own=True))
    assert "The last training alone spent ε = 5.49 (unit patient, δ = 0.0001)" in " ".join(
        in_words(gan.own, own=True)
    )


def test_a_sheet_repeats_what_the_statement_about_its_crops_says(
    make_tree: Make, tmp_path: Path
) -> None:
    tree = make_tree(epsilons=())
    folder = tree.data("synthetic")

    def page(name: str) -> str:
        report(runs=str(tree.runs), out=str(tmp_path / name), sheets={"MCGAN": str(folder)})
        return (tmp_path / name / "report.html").read_text()

    ledger = PrivacyLedger(accesses=(Access.of_unknown("A < B", ""),))
    write_statement(folder, ledger, artefact=folder / "crops.csv")
    assert "It is unknown whose data A &lt; B used." in page("one")
    path = folder / "privacy.json"
    path.write_text(path.read_text().replace("A < B", "nobody"))
    found = page("two")
    assert "nobody" not in found
    assert "no word is quoted: the statement beside it does not fit its seal" in found


def test_words_that_are_not_those_of_the_statement_are_not_shown(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    words = tree.runs / "baseline" / "PRIVACY.md"
    words.write_text(words.read_text().replace("0.5", "0.1"))
    with pytest.raises(ReportError, match=r"is not the text that privacy\.json was written with"):
        report(runs=str(tree.runs), out=str(tree.root / "out"))


def test_a_crop_statement_counts_crops(tree: Tree) -> None:
    row = collect(tree.runs)[1]
    row.privacy["statements"][0] |= {"unit": "crop", "units": 1104}
    row.__dict__.pop("statements", None)  # read before the unit was changed
    words = " ".join(in_words(row.statements[0], own=True))
    assert "1104 crops, each a unit of its own" in words
    assert "unit crop" in words


def test_a_cohort_of_unknown_patients_is_named_as_such(make_tree: Make) -> None:
    row = collect(make_tree().runs)[2]
    row.privacy["statements"][0] |= {"units": None}
    row.__dict__.pop("statements", None)  # read before the numbers were taken away
    words = " ".join(in_words(row.statements[0], own=False))
    assert "number of patients unknown" in words
    assert "The last training" not in words


def test_a_statement_keeps_its_words_as_html() -> None:
    (none, first), (heading, second) = parts(TEXT)
    assert (none, heading) == ("", "Bounds")
    assert first == (
        "<p>First <code>a&lt;b&gt;</code> words.<br />\nSecond &lt;i&gt;line&lt;/i&gt;.</p>"
    )
    assert second.count("<table") == second.count("<ul>") == 1
    assert '<th scope="col" class="words">who</th>' in second
    assert '<tr>\n<th scope="row">anybody</th>\n<td>0.5</td>\n</tr>' in second
    assert '<th scope="row">&lt;i&gt;</th>' in second
    assert "<li>one &amp; two</li>\n<li>three</li>" in second


def test_names_break_at_strokes_and_never_lose_an_escape() -> None:
    assert breakable("a/b_<c>") == "a/<wbr>b_<wbr>&lt;c&gt;"
    assert marked("`x` < y") == "<code>x</code> &lt; y"
