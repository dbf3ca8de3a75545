"""All tables of the paper from one command: what is run, what is left out, what is resumed."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from runs import failure
from trees import mvtec_tree

TINY = [
    *("trainer=cpu", "backbone.name=test_resnet", "backbone.weights=random", "pictures=0"),
    *("preprocessing.resize=64", "preprocessing.crop=null", "loading.num_workers=0", "logger=none"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for category in ("tile", "wood"):
        mvtec_tree(root, category)
    return root


def test_tables_share_a_pass_and_end_on_one_page(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "paper"
    given = [f"data.root={root}", f"stc.root={tmp_path}", "tables=[table3_r18,table4,table8]"]
    main(["paper", *TINY, *given, f"hydra.sweep.dir={folder}"])
    printed = capsys.readouterr().out
    assert "3 jobs in 1 group: 1 pass over the images instead of 3" in printed
    page = (folder / "report.html").read_text()
    for line in (
        "All figures are of test_resnet, which is not the paper&#39;s backbone.",
        f"Left out: table4. {tmp_path}: no scene of STC is there;",
        "<h3>Table III, localisation on MVTec AD; by test_resnet instead</h3>",
        "<h3>Table VIII, memory of a model; by test_resnet instead</h3>",
    ):
        assert line in page
    assert len(pd.read_csv(folder / "sweep.csv")) == 3 * 2
    third, eighth = (pd.read_csv(folder / name / "table.csv") for name in ("table3", "table8"))
    assert list(third["pixel/auroc_reference"])[:2] == [91.2, 93.6]
    assert list(eighth["variant"].unique()) == ["R18-Rd100", "WR50-Rd550"]

    missing, *others = sorted(folder.glob("*/tile/metrics.json"))
    written = [file.stat().st_mtime_ns for file in others]
    missing.unlink()
    main(["paper", f"resume={folder}"])
    assert missing.is_file()
    assert [file.stat().st_mtime_ns for file in others] == written


def test_what_cannot_be_had_is_said(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = "tables=[table1,table3_wr50]"
    options = [tables, f"hydra.sweep.dir={tmp_path / 'paper'}"]
    nowhere = failure(capsys, ["paper", f"data.root={tmp_path}", *options])
    assert "none of the tables can be made" in nowhere
    left_out = "Left out: table1, table3_wr50."
    assert f"{left_out} {tmp_path}: no category of MVTec is there" in nowhere
    no_hub = failure(capsys, ["paper", f"data.root={root}", *options])
    assert "Left out: table1. no weights of resnet18.tv_in1k from the model hub" in no_hub
    assert "Left out: table3_wr50. no weights of wide_resnet50_2.tv_in1k" in no_hub
    for tables, message in (
        ("[table9]", "Could not find 'experiment/paper/table9'"),
        ("table1", "tables must be a list of tables, such as [table1,table3_r18], got 'table1'"),
    ):
        assert message in failure(capsys, ["paper", f"tables={tables}", *options[1:]])
