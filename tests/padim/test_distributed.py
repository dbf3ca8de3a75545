"""Several processes on the CPU, over gloo, against one."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from oracle import statistics_error
from processes import fit_and_test, in_processes
from trees import mvtec_tree

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """13 training and 5 test images: parts of 4, 4 and 5 make 1, 1 and 2 batches."""
    folder = mvtec_tree(tmp_path, train=13)
    with Image.open(folder / "test/good/000.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "test/good/002.png")
    return tmp_path


def test_three_processes_equal_one(root: Path, tmp_path: Path) -> None:
    alone = fit_and_test(1, root)
    found = in_processes(3, tmp_path, fit_and_test, root)
    for stage in ("trained", "tested"):
        assert [path for part in found for path in part[stage]] == alone[stage]
        sizes = [len(part[stage]) for part in found]
        assert max(sizes) - min(sizes) <= 1
    for part in found:
        for fit in ("statistics", "twice"):
            assert statistics_error(part[fit], alone[fit]) < 1e-6
        assert torch.equal(part["keys"], alone["keys"])
        assert torch.equal(part["fingerprints"], alone["fingerprints"])
        assert part["repeated"] == alone["repeated"] == 13
        torch.testing.assert_close(part["coefficient"], alone["coefficient"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(part["scores"], alone["scores"], rtol=1e-5, atol=0)
    first = found[0]
    assert first["metrics"].keys() == alone["metrics"].keys()
    for name, value in alone["metrics"].items():
        assert first["metrics"][name] == pytest.approx(
            value, rel=1e-6 if "thr" not in name else 1e-5
        )
    for name, points in alone["curves"].items():
        for x, y in zip(points, first["curves"][name], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
