# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from mammo_dp.report.collect import collect
from mammo_dp.report.lineage import command, relative, settings, steps
from mammo_dp.runs import open_run
from tests.report.conftest import Tree


def test_commands_can_be_typed_again_in_the_reported_folder(tree: Tree) -> None:
    row = collect(tree.runs)[0]
    assert command(row.model, tree.runs) == (
        "mammo-dp fit --config baseline/config.yaml --run_dir NEW_FOLDER"
    )
    assert command(row.evaluation, tree.runs) == "mammo-dp test --run baseline --run_dir NEW_FOLDER"
    assert row.attacker
    assert command(row.attacker, tree.runs) == (
        "mammo-dp attack membership --crops ../data/cohort --run baseline --seed 0 --out NEW_FOLDER"
    )


def test_each_run_comes_once_and_after_what_it_reads(tree: Tree) -> None:
    folders = [step.folder for step in steps(collect(tree.runs), tree.runs)]
    assert len(set(folders)) == len(folders)
    for before, after in (
        ("../data/phantoms", "pretrain_phantom"),
        ("../data/cohort", "dp/eps6_phantom"),
        ("pretrain_phantom", "dp/eps6_phantom"),
        ("dp/eps6_phantom", "dp/eps6_phantom/test_val"),
        ("dp/eps6_phantom/test_val", "dp/eps6_phantom/attack_membership"),
    ):
        assert folders.index(before) < folders.index(after)


def test_no_page_names_the_machine(tree: Tree) -> None:
    rows = collect(tree.runs)
    said = [step.command for step in steps(rows, tree.runs)]
    said += [value for row in rows for _, value in settings(row.attacker or row.model, tree.runs)]
    assert str(tree.root) not in " ".join(said)
    assert relative(Path("/a/b/c"), Path("/a/d")) == "../b/c"


def test_a_mixture_of_a_benchmark_has_no_command_of_its_own(tree: Tree, tmp_path: Path) -> None:
    read = {"crops": tree.data("cohort"), "synthetic": tree.data("phantoms")}
    mixed = open_run(tmp_path / "mix", command="mix", config={"per_class": 6}, inputs=read)
    assert command(mixed, tree.runs) == (
        "# ../data/cohort and ../data/phantoms, mixed by `mammo-dp benchmark` as run.json says"
    )
