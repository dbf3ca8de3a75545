import hashlib
import io
import logging
import socket
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from datamodules import DatasetError, MVTec
from datamodules.download import download_archive
from datamodules.mvtec import ARCHIVE_URL


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/broken-off":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        else:
            super().do_GET()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The folder that `server` shows."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[str]:
    """The URL of a local server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # polls for shutdown
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def pack(archive: Path, members: dict[str, bytes]) -> str:
    """Write a .tar.xz or .tar.gz; returns its SHA-256."""
    with tarfile.open(archive, f"w:{archive.suffix[1:]}") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["xz", "gz"])
def test_archive_is_fetched_checked_and_unpacked(tmp_path, served, server, suffix, capfd):
    digest = pack(served / f"a.tar.{suffix}", {"bottle/readme.txt": b"hello", "license.txt": b"CC"})
    root = tmp_path / "new" / "root"
    download_archive(f"{server}/a.tar.{suffix}", digest.upper(), root)
    assert (root / "bottle/readme.txt").read_bytes() == b"hello"
    assert sorted(path.name for path in root.iterdir()) == ["bottle", "license.txt"]
    progress = capfd.readouterr().err
    assert progress.count("100%") >= 2
    assert "unpack: 100%" in progress
    assert ".download-" not in progress  # where it is in the meantime


def test_what_is_there_already_is_kept(tmp_path, served, server):
    digest = pack(served / "a.tar.gz", {"bottle/a.txt": b"new", "cable/a.txt": b"new"})
    (tmp_path / "bottle").mkdir()
    (tmp_path / "bottle/a.txt").write_bytes(b"mine")
    download_archive(f"{server}/a.tar.gz", digest, tmp_path)
    assert (tmp_path / "bottle/a.txt").read_bytes() == b"mine"
    assert (tmp_path / "cable/a.txt").read_bytes() == b"new"


def test_wrong_checksum(tmp_path, served, server):
    digest = pack(served / "a.tar.gz", {"bottle/a.txt": b""})
    root = tmp_path / "root"
    expected = f"hash .*: expected {'0' * 64} but got {digest}. Deleted"
    with pytest.raises(DatasetError, match=expected):
        download_archive(f"{server}/a.tar.gz", "0" * 64, root)
    assert list(root.iterdir()) == []


def test_member_that_leads_out_of_the_folder(tmp_path, served, server):
    digest = pack(served / "a.tar.gz", {"bottle/a.txt": b"", "../evil": b""})
    root = tmp_path / "root"
    with pytest.raises(DatasetError, match=r"a\.tar\.gz: cannot be unpacked \('\.\./evil' would"):
        download_archive(f"{server}/a.tar.gz", digest, root)
    assert list(root.iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("size", [100, 1000])
def test_damaged_archive(tmp_path, served, server, size):
    pack(served / "a.tar.xz", {"a.bin": bytes(range(256)) * 64})
    damaged = (served / "a.tar.xz").read_bytes()[:size].replace(b"\x00", b"\x01")
    (served / "a.tar.xz").write_bytes(damaged)
    root = tmp_path / "root"
    with pytest.raises(DatasetError, match=r"a\.tar\.xz: cannot be unpacked \(.+\)"):
        download_archive(f"{server}/a.tar.xz", hashlib.sha256(damaged).hexdigest(), root)
    assert list(root.iterdir()) == []


def test_server_out_of_reach(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.tar.xz"
        expected = rf"^{url}: download failed \(.*refused.*unpack it into {tmp_path}$"
        with pytest.raises(DatasetError, match=expected):
            download_archive(url, "0" * 64, tmp_path)


def test_no_such_file_on_the_server(tmp_path, server):
    with pytest.raises(DatasetError, match=r"none\.tar\.xz: download failed \(404 Client Error"):
        download_archive(f"{server}/none.tar.xz", "0" * 64, tmp_path / "root")


def test_connection_that_breaks_off(tmp_path, server):
    with pytest.raises(DatasetError, match=r"download failed \(.*9 bytes read, 991 more"):
        download_archive(f"{server}/broken-off", "0" * 64, tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_mvtec_downloads_a_missing_category_only(tmp_path, served, server):
    digest = pack(served / "a.tar.xz", {"cable/train/good/000.png": png()})
    data = MVTec(
        tmp_path / "root",
        "cable",
        download=True,
        download_url=f"{server}/a.tar.xz",
        download_sha256=digest,
    )
    data.prepare_data()
    data.setup()
    assert len(data.train_paths) == 1
    (served / "a.tar.xz").unlink()
    data.prepare_data()  # would fail if it asked the server again


def test_without_download_nothing_is_fetched(tmp_path):
    data = MVTec(tmp_path / "root", "cable", download_url="http://127.0.0.1:1/a.tar.xz")
    data.prepare_data()
    with pytest.raises(DatasetError, match="or set download to true"):
        data.setup()


def test_licence_is_logged(tmp_path, monkeypatch, caplog):
    fetched = []
    monkeypatch.setattr("datamodules.mvtec.download_archive", lambda *args: fetched.append(args[0]))
    with caplog.at_level(logging.INFO, logger="datamodules"):
        MVTec(tmp_path, "cable", download=True).prepare_data()
    assert fetched == [ARCHIVE_URL]
    assert "CC BY-NC-SA 4.0: no commercial use" in caplog.text


def test_unknown_category_starts_no_download(tmp_path):
    with pytest.raises(DatasetError, match="MVTec AD has no category 'botle'; it has carpet, grid"):
        MVTec(tmp_path, "botle", download=True).prepare_data()
