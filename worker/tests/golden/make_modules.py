"""Makes modules/: small modules that tch cannot make, for the tests of worker/src/model.

Run with torch 2.11: python worker/tests/golden/make_modules.py. Those of passes_tests.rs take float32 [N, 3, 32, 32].
parity.pt and parity.pt2 are bundles: one network in both formats, with its description. So are several.pt and
several.pt2, whose outputs are a dict, and detector.pt, whose outputs are a tuple.
"""

import json
import warnings
from pathlib import Path

import torch
from torch import nn

OUT = Path(__file__).resolve().parent / "modules"


class Branches(nn.Module):
    """A branch by the input's values, so that it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        if bool(x.mean() > 0.5):
            y = nn.functional.silu(y)
        else:
            y = torch.relu(y) + y
        return y.mean((2, 3))


class Loop(nn.Module):
    """An activation in a loop over a value that is made before it: in place, the second round would start from the first's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        total = torch.zeros_like(y)
        for _ in range(x.size(2) // 8):
            total = total + nn.functional.silu(y)
        return total.mean((2, 3))


class KeepsInput(nn.Module):
    """Remembers its input and gives a part of it back."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(1, 3, 1, 1)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.last = x
        y = torch.relu(self.conv(torch.relu(x)))
        return y.mean((2, 3)) + self.last.mean((1, 2, 3)).unsqueeze(1)


class CountsCalls(nn.Module):
    """A buffer that changes with every call, and that the answer does not depend on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.calls += 1
        y = torch.relu(self.conv(x))
        return y.mean((2, 3)) + (self.calls - self.calls)


class Residual(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5) if dropout else nn.Identity()

    def forward(self, x):
        # Dropout gives its operand itself back: the sum must not be written over the input.
        return self.drop(self.norm(self.conv(x))) + self.drop(x)


class Activated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return nn.functional.hardswish(self.conv(x)) + x


class HalfInside(nn.Module):
    """A sum in another precision than its first operand's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x.double()


class Unbatched(nn.Module):
    """A convolution of one image instead of a batch of them, beside an ordinary one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = torch.relu(self.stem(x))
        return (y + self.conv(torch.ones_like(y).mean(0))).mean((2, 3))


class Parity(nn.Module):
    """Some of everything: batch norm, depthwise, residual, dropout, an activation that takes a limit."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, 5)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = nn.functional.relu6(self.norm(self.stem(x)))
        x = x + nn.functional.hardswish(self.depthwise(x))
        return self.classifier(self.drop(x.mean((2, 3))))


PARITY_SIDE = 12
PARITY_SPEC = {
    "version": 1,
    "name": "parity",
    "head": "classification",
    "labels": [f"class {i}" for i in range(5)],
    "input": {
        "crop": [PARITY_SIDE, PARITY_SIDE],
        "resize_mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


def parity():
    model = Parity().eval()
    example = torch.randn(2, 3, PARITY_SIDE, PARITY_SIDE)
    extra = {"trawl.json": json.dumps(PARITY_SPEC)}
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, example), str(OUT / "parity.pt"), _extra_files=extra)
        batch = torch.export.Dim("batch", min=1, max=65_536)
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(OUT / "parity.pt2"), extra_files=extra)


class RedBox(nn.Module):
    """Finds the red rectangle: three boxes an image, of which the second is a bad guess and the third filling."""

    def forward(self, x):
        red = (x[:, 0] > 0.5) & (x[:, 1] < 0.5)
        across, down = red.any(1), red.any(2)
        column = torch.arange(x.size(3), dtype=torch.float32).expand(x.size(0), x.size(3))
        row = torch.arange(x.size(2), dtype=torch.float32).expand(x.size(0), x.size(2))

        def ends(there, place):
            first = torch.where(there, place, torch.full_like(place, 1e4)).amin(1)
            return first, torch.where(there, place, torch.full_like(place, -1.0)).amax(1) + 1

        (x0, x1), (y0, y1) = ends(across, column), ends(down, row)
        best = torch.stack([x0, y0, x1, y1], 1)
        guess = torch.ones_like(best) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        boxes = torch.stack([best, guess, torch.zeros_like(best)], 1)
        found = across.any(1).float()
        scores = torch.stack([found * 0.75, torch.full_like(found, 0.25), torch.zeros_like(found)], 1)
        labels = torch.ones_like(scores).to(torch.int64) * torch.tensor([1, 2, 0])
        return boxes, scores, labels


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.detector = RedBox()
        self.classifier = nn.Linear(3, 4)

    def forward(self, x):
        boxes, scores, labels = self.detector(x)
        features = x.mean((2, 3))
        map = nn.functional.adaptive_avg_pool2d(x, (2, 3))
        logits = self.classifier(features) * 8
        return {"logits": logits, "features": features, "boxes": boxes, "scores": scores, "labels": labels, "map": map}


SEVERAL_SIDE = 32
THINGS = ["nothing", "red thing", "guess"]


def several_spec(name, heads):
    return {
        "version": 1,
        "name": name,
        **heads,
        "input": {
            "crop": [SEVERAL_SIDE, SEVERAL_SIDE],
            "resize_mode": "letterbox",
            "interpolation": "nearest",
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        },
    }


def several():
    names = [f"class {i}" for i in range(4)]
    spec = several_spec(
        "several",
        {
            "heads": [
                {"name": "species", "head": "classification", "output": "logits", "labels": names},
                {"name": "tags", "head": "multi_label", "output": "logits", "labels": names, "threshold": 0.4},
                {"name": "look", "head": "embedding", "output": "features", "dtype": "f16", "normalize": True},
                {"name": "things", "head": "detection", "labels": THINGS, "threshold": 0.5},
                {"name": "map", "head": "raw", "output": "map"},
            ]
        },
    )
    model = Several().eval()
    example = torch.rand(2, 3, SEVERAL_SIDE, SEVERAL_SIDE)
    extra = {"trawl.json": json.dumps(spec)}
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(model, example, strict=False), str(OUT / "several.pt"), _extra_files=extra)
        batch = torch.export.Dim("batch", min=1, max=65_536)
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
        torch.export.save(program, str(OUT / "several.pt2"), extra_files=extra)
        things = several_spec("detector", {"head": "detection", "labels": THINGS, "threshold": 0.2, "max_boxes": 9})
        extra = {"trawl.json": json.dumps(things)}
        torch.jit.save(torch.jit.trace(RedBox(), example), str(OUT / "detector.pt"), _extra_files=extra)


def main():
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    modules = {
        "branches": Branches(),
        "loop": Loop(),
        "keeps_input": KeepsInput(),
        "counts_calls": CountsCalls(),
        "dropout": Residual(True),
        "half_inside": HalfInside(),
        "unbatched": Unbatched(),
    }
    for name, module in modules.items():
        torch.jit.save(torch.jit.script(module.eval()), str(OUT / f"{name}.pt"))
    torch.jit.save(torch.jit.freeze(torch.jit.script(Activated().eval())), str(OUT / "frozen.pt"))
    parity()
    several()


if __name__ == "__main__":
    main()
