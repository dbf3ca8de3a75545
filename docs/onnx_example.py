"""Score images with onnxruntime, numpy and Pillow: python onnx_example.py model.onnx IMAGE..."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["padim"])
prepare, size = about["preparation"], np.array(about["image_size"])
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16 bits a pixel, of which the model's camera may use fewer
        white = 2 ** (prepare["bits"] or 16) - 1
        image = Image.fromarray(np.rint(np.minimum(image, white) * 255.0 / white).astype(np.uint8))
    image = image.convert("RGB")
    if prepare["roi"]:
        top, left, bottom, right = prepare["roi"]
        image = image.crop((left, top, right, bottom))
    old = np.array([image.height, image.width])
    new = np.broadcast_to(prepare["resize"] or old, 2)
    scale = {"stretch": new / old, "letterbox": min(new / old), "shorter_side": max(new / old)}
    resized = np.rint(old * scale[prepare["resize_mode"]]).astype(int)
    padded = new if prepare["resize_mode"] == "letterbox" else resized
    corner = (padded - resized) // 2 - np.rint((padded - size) / 2).astype(int)
    shown = Image.new("RGB", tuple(size[::-1].tolist()), tuple(prepare["padding"]))
    shown.paste(image.resize(resized[::-1], Image.Resampling.BICUBIC), tuple(corner[::-1].tolist()))
    outputs = session.run(None, {"images": np.array(shown).transpose(2, 0, 1)[None]})
    found = {output.name: v for output, v in zip(session.get_outputs(), outputs, strict=True)}
    print(
        json.dumps({"path": path} | {k: v.item() for k, v in found.items() if k != "anomaly_map"})
    )
