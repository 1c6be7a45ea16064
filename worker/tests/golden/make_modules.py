"""Makes modules/*.pt: small TorchScript modules that tch cannot trace, for worker/src/model/passes_tests.rs.

Run with torch 2.11: python worker/tests/golden/make_modules.py. Each takes float32 [N, 3, 32, 32].
"""

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
    }
    for name, module in modules.items():
        torch.jit.save(torch.jit.script(module.eval()), str(OUT / f"{name}.pt"))
    torch.jit.save(torch.jit.freeze(torch.jit.script(Activated().eval())), str(OUT / "frozen.pt"))


if __name__ == "__main__":
    main()
