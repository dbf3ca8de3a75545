"""padim predict on videos made here, end to end."""

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datamodules import Clip, Preprocessing, frame_rate
from experiments.cli import main
from experiments.drawing.annotate import AnnotatedVideo
from experiments.drawing.pictures import CALIBRATION, Scale
from experiments.scoring.predictor import warn_of_size
from runs import SMALL, failure, rows
from videos import SIZE, cut_off, damage, footage, intrude, write_frames, write_video

COUNT = 12
"""Frames of a video; `RATE` a second."""

RATE = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model fitted on the frames of a normal video."""
    argv, root = sys.argv, tmp_path_factory.mktemp("data")
    write_frames(root / "widget" / "train" / "good", footage(40), "{:03}.png")
    folder = tmp_path_factory.mktemp("runs") / "run"
    try:
        sharp = ["map.sigma=2", "gaussian.eps=0.001"]  # random features tell little
        main(["fit", *SMALL, *sharp, f"data.root={root}", f"hydra.run.dir={folder}"])
    finally:
        sys.argv = argv
    return folder


def with_intruder() -> np.ndarray:
    """`COUNT` frames, uint8 (COUNT, H, W, 3); the second half has something bright."""
    frames = footage(COUNT)
    intrude(frames)
    return frames


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in" / "clip.avi", with_intruder())


def predict(run: Path, out: Path, *arguments: object) -> dict[str, float]:
    """The scores written, by path."""
    more = ["trainer=cpu", "loading.num_workers=0", f"hydra.run.dir={out}"]
    main(["predict", str(run), *map(str, arguments), *more])
    return scores(out)


def scores(out: Path) -> dict[str, float]:
    return {row["path"]: float(row["score"]) for row in rows(out / "scores.csv")}


def decode(path: Path) -> tuple[np.ndarray, Fraction | None]:
    """All frames, uint8 (N, H, W, 3), and the frame rate of a video file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), stream.average_rate


def test_frames_score_as_the_same_images_do(run: Path, video: Path, tmp_path: Path) -> None:
    write_frames(tmp_path / "images", with_intruder(), "{:03}.png")
    found = predict(run, tmp_path / "a", video)
    expected = predict(run, tmp_path / "b", tmp_path / "images", "pictures=false")
    assert list(found) == [f"{video}#{number}" for number in range(COUNT)]
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-6)
    values = np.array(list(found.values()))
    assert values[COUNT // 2 :].min() > values[: COUNT // 2].max()


def test_the_annotated_video_shows_where(run: Path, video: Path, tmp_path: Path) -> None:
    predict(run, tmp_path / "out", video, "threshold.score=5")
    frames, rate = decode(tmp_path / "out" / "videos" / "00000_clip.mp4")
    assert frames.shape == (COUNT, *SIZE, 3)
    assert rate == RATE
    tint = frames[..., 0].astype(int) - frames[..., 2]  # the colours end in yellow
    normal, intruders = COUNT // 2, intrude(footage(COUNT)) > 0
    below = np.s_[:, 12:]  # the text
    assert tint[below][intruders[below]].mean() > 20
    assert np.abs(tint[below][:normal]).mean() < 8
    with Image.open(tmp_path / "out" / "pictures" / "00000_clip_course.png") as course:
        assert course.width > course.height > 100


@pytest.mark.parametrize("workers", [0, 2])
def test_stride(run: Path, video: Path, tmp_path: Path, workers: int) -> None:
    every = predict(run, tmp_path / "a", video)
    found = predict(
        run,
        tmp_path / "b",
        video,
        "stride=5",
        "loading.batch_size=2",
        f"loading.num_workers={workers}",
    )
    assert list(found) == [f"{video}#0", f"{video}#5", f"{video}#10"]
    assert found == pytest.approx({path: every[path] for path in found}, rel=1e-5)
    frames, rate = decode(tmp_path / "b" / "videos" / "00000_clip.mp4")
    assert len(frames) == 3
    assert rate == Fraction(RATE, 5)


def test_stride_of_nothing(
    run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(
        capsys, ["predict", str(run), str(video), "stride=0", f"hydra.run.dir={tmp_path}"]
    )
    assert "stride must be a whole number of at least 1, such as 5, got 0" in said


def test_a_folder_of_images_and_videos(run: Path, video: Path, tmp_path: Path) -> None:
    images = write_frames(video.parent, with_intruder()[::11], "z{}.png")
    second = write_video(video.parent / "deep" / "other.MKV", with_intruder()[:4])
    found = predict(run, tmp_path / "out", images, "--raw")
    paths = [str(images / name) for name in ("z0.png", "z1.png")]
    paths += [f"{video}#{number}" for number in range(COUNT)]
    paths += [f"{second}#{number}" for number in range(4)]
    assert list(found) == paths
    written = {
        folder: sorted(path.name for path in (tmp_path / "out" / folder).iterdir())
        for folder in ("maps", "pictures", "videos")
    }
    assert written["videos"] == ["00002_clip.mp4", "00003_other.mp4"]
    assert written["pictures"] == [
        *("00000_z0.png", "00001_z1.png", "00002_clip_course.png", "00003_other_course.png")
    ]
    assert len(written["maps"]) == len(paths)
    raw = np.load(tmp_path / "out" / "maps" / "00002_clip_000007.npy")
    assert raw.max() == pytest.approx(found[f"{video}#7"])


def test_without_pictures_there_are_scores_alone(run: Path, video: Path, tmp_path: Path) -> None:
    assert len(predict(run, tmp_path / "out", video, "pictures=false")) == COUNT
    assert not {"pictures", "videos", "maps"} & {path.name for path in (tmp_path / "out").iterdir()}


def test_a_file_that_is_no_video(
    run: Path, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "broken.mp4", tmp_path / "out"
    broken.write_text("no video")
    assert len(predict(run, out, broken, video, "pictures=false")) == COUNT
    (row,) = rows(out / "skipped.csv")
    assert row["path"] == str(broken)
    assert row["reason"].startswith("cannot be read as a video: ")
    again = ["overwrite=true", f"hydra.run.dir={out}"]
    arguments = ["predict", str(run), str(video), str(broken), "--strict", "pictures=false"]
    assert f"Error: {broken}: cannot be read as a video" in failure(capsys, [*arguments, *again])
    assert len(scores(out)) == COUNT
    assert f"Error: {broken}: cannot be read as a video" in failure(
        capsys, ["predict", str(run), str(broken), *again]
    )


def test_verdicts_and_regions_of_frames(run: Path, video: Path, tmp_path: Path) -> None:
    found = predict(run, tmp_path / "a", video, "pictures=false")
    middle = (found[f"{video}#5"] + found[f"{video}#6"]) / 2
    predict(run, tmp_path / "b", video, f"threshold.score={middle}")
    scored = rows(tmp_path / "b" / "scores.csv")
    assert [row["verdict"] for row in scored] == ["normal"] * 6 + ["anomalous"] * 6
    assert [int(row["regions"]) > 0 for row in scored] == [False] * 6 + [True] * 6
    for number in range(COUNT // 2, COUNT):
        mine = [
            row
            for row in rows(tmp_path / "b" / "regions.csv")
            if row["path"] == f"{video}#{number}"
        ]
        assert SIZE[1] > 16 + number + 4 > int(mine[0]["column"]) - 8  # see `intrude`
    frames, _ = decode(tmp_path / "b" / "videos" / "00000_clip.mp4")
    assert len(frames) == COUNT


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (1.0, "frame 9 cannot be decoded"),
        (0.5, "frame 9 is damaged"),
        (None, "decoded 9 of 12 frames, so there is no frame 9"),
    ],
)
def test_all_but_the_frames_from_a_damaged_one_on_are_scored(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    share: float | None,
    reason: str,
    workers: int,
) -> None:
    video = write_video(tmp_path / "clip.avi", with_intruder(), "mpeg4", "yuv420p")
    intact = predict(run, tmp_path / "intact", video, "pictures=false")
    if share is None:
        cut_off(video, frames=9)
    else:
        damage(video, frame=9, share=share)
    other = write_video(tmp_path / "other.avi", with_intruder()[:2])
    out = tmp_path / "out"
    arguments = [str(run), str(video), str(other), f"loading.num_workers={workers}"]
    main(["predict", *arguments, f"hydra.run.dir={out}"])
    assert f"{video}: {reason}" in (out / "predict.log").read_text()  # a worker may have said so
    left_out = {"path": str(video), "reason": "frame 9 cannot be read, 3 frames are left out"}
    assert rows(out / "skipped.csv") == [left_out]
    assert f"{video}: frame 9 cannot be read" in capsys.readouterr().err
    found = scores(out)
    expected = {f"{video}#{number}": intact[f"{video}#{number}"] for number in range(9)}
    assert {path: found[path] for path in expected} == pytest.approx(expected, rel=1e-5)
    assert list(found) == [*expected, f"{other}#0", f"{other}#1"]
    frames, _ = decode(out / "videos" / "00000_clip.mp4")
    assert len(frames) == 9
    assert (out / "pictures" / "00000_clip_course.png").is_file()


def test_much_disk_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_size(3800, (256, 256))
    assert not caplog.messages
    warn_of_size(5000, (256, 256))
    assert caplog.messages == ["--raw writes 5000 maps, 1.3 GB"]


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_colours_are_set_by_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec == "mpeg4":
        monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    size, count = (131, 201), CALIBRATION + 6
    grey = np.full((count, *size, 3), 100, np.uint8)
    video = write_video(tmp_path / "grey.avi", grey)
    maps = np.ones((count, 32, 32), np.float32)
    maps[CALIBRATION:] = 3  # with the later ones in it, the scale would go on to 3
    maps[:CALIBRATION, 0, 0] = 2
    maps[CALIBRATION:, 16:] = 9
    preprocessing = Preprocessing(64, 32)
    annotated = AnnotatedVideo(
        tmp_path / "out.mp4", Clip.open(video, 1), preprocessing, frame_rate(video)
    )
    annotated.add([""] * (CALIBRATION - 1), maps[: CALIBRATION - 1])
    assert not annotated.path.exists()
    annotated.add([""], maps[CALIBRATION - 1 : CALIBRATION])
    assert annotated.path.exists()  # what is drawn as it comes is not held
    annotated.add([""] * 6, maps[CALIBRATION:])
    annotated.close()

    with av.open(str(annotated.path)) as container:
        assert container.streams.video[0].codec_context.name == codec
    frames, _ = decode(annotated.path)
    assert frames.shape == (count, 132, 202, 3)  # both sides even
    scale = Scale.of(maps[:CALIBRATION])
    assert scale == Scale(1, 3)
    for frame, row, value in (
        (0, 65, 1),
        (count - 1, 45, 3),
        (count - 1, 85, 9),
        (count - 1, 120, 0),  # cropped away
    ):
        expected = scale.overlay(grey[0, :1, :1], np.array([[value]]))[0, 0]
        found = frames[frame, row, 100]
        assert found == pytest.approx(expected, abs=10)  # what the codec loses
