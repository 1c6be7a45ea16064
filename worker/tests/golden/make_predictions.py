#!/usr/bin/env python3
"""Makes model.pt and predictions.json: what PyTorch, torchvision and Pillow predict for the golden images.

Needs torch 2.11.0, torchvision 0.26.0 and Pillow 13.0.0; the tests need none of them. The model is small and
its weights are random but large, so that a pixel that is off by one shows in the probabilities.

    python worker/tests/golden/make_predictions.py
"""
import json
import pathlib
import warnings

import PIL
import torch
from PIL import Image
from torchvision import transforms as T

warnings.simplefilter("ignore")  # TorchScript is deprecated upstream; it is what the worker loads
HERE = pathlib.Path(__file__).parent
CLASSES = 24
SPEC = {
    "version": 1,
    "name": "golden",
    "head": "classification",
    "labels": [f"class {i}" for i in range(CLASSES)],
    "input": {
        "crop": [64, 64],
        "resize": 72,
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}


class Golden(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 12, 5, stride=3)
        self.second = torch.nn.Conv2d(12, 24, 3, stride=2)
        self.classifier = torch.nn.Linear(24, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.classifier(x.mean((2, 3)))


def main():
    torch.manual_seed(20)
    model = torch.jit.trace(Golden().eval(), torch.zeros(2, 3, 64, 64))
    torch.jit.save(model, str(HERE / "model.pt"), _extra_files={"trawl.json": json.dumps(SPEC)})
    shape = SPEC["input"]
    prepare = T.Compose([
        T.Resize(shape["resize"], interpolation=T.InterpolationMode.BICUBIC, antialias=True),
        T.CenterCrop(shape["crop"]),
        T.ToTensor(),
        T.Normalize(shape["mean"], shape["std"]),
    ])
    predictions = {}
    with torch.inference_mode():
        for path in sorted((HERE / "images").iterdir()):
            probabilities = torch.softmax(model(prepare(Image.open(path).convert("RGB"))[None]), 1)[0]
            predictions[path.name] = [round(p, 7) for p in probabilities.tolist()]
    made_with = {"torch": torch.__version__.split("+")[0], "pillow": PIL.__version__}
    document = {"made_with": made_with, "probabilities": predictions}
    (HERE / "predictions.json").write_text(json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
