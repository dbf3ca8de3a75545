import av
import numpy as np
import pytest
import torch

from datamodules.errors import ImageError
from datamodules.video import frame_count, frame_path, read_frames, read_named
from videos import footage, write_video


@pytest.mark.parametrize("b_frames", [0, 2])
def test_frames_of_a_lossy_codec_are_in_order(tmp_path, b_frames):
    encoded = footage(30)
    video = write_video(tmp_path / "a.avi", encoded, "mpeg4", "yuv420p", b_frames)
    for number, image in read_frames(video, range(30)):
        errors = np.abs(encoded - image.permute(1, 2, 0).numpy().astype(float)).mean((1, 2, 3))
        assert errors.argmin() == number
        assert errors[number] < 5  # grey levels; half the resolution of colour costs 3.5


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "b_frames"),
    [
        (".avi", "ffv1", "bgr0", 0),
        (".mkv", "ffv1", "bgr0", 0),  # tells neither its length nor round timestamps
        (".avi", "mpeg4", "yuv420p", 2),
        (".mp4", "mpeg4", "yuv420p", 2),
        (".mp4", "libx264", "yuv420p", 2),
        (".avi", "libx264", "yuv420p", 2),  # its timestamps are made up
    ],
)
def test_a_frame_by_its_path_is_that_of_reading_in_a_row(tmp_path, suffix, codec, pixels, b_frames):
    if codec not in av.codecs_available:
        pytest.skip(f"needs an FFmpeg with {codec}")
    video = write_video(tmp_path / f"a{suffix}", footage(40), codec, pixels, b_frames)
    assert frame_count(video) == 40
    frames = dict(read_frames(video, range(40)))
    assert list(frames) == list(range(40))
    for number, image in frames.items():
        assert torch.equal(read_named(frame_path(video, number)), image)


@pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="needs a PyAV that writes rotations"
)
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_phone_that_was_turned(tmp_path, degrees):
    encoded = footage(3)
    video = write_video(tmp_path / "a.mov", encoded, "mpeg4", "yuv420p", rotation=degrees)
    upright = np.rot90(encoded, degrees // 90, (1, 2)).astype(float)
    frames = dict(read_frames(video, range(3)))
    for number, image in frames.items():
        assert torch.equal(image, read_named(frame_path(video, number)))
        assert np.abs(upright[number] - image.permute(1, 2, 0).numpy()).mean() < 5


def test_a_file_without_pictures(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ImageError, match=r"/a\.mkv: has no video stream$"):
        frame_count(path)
