#!/usr/bin/env python3
"""Plain PyTorch: a Dataset, a DataLoader with a worker process a core, the model, one Parquet file.

The model runs in the main process with torch's own number of threads, as in PyTorch's tutorials.
"""

from typing import Any, List, Tuple

import common

ARGS = common.arguments(__doc__)
RUN = common.Run("torch", ARGS)

# After the clock and the sampler, which shall see the imports.
import pyarrow  # noqa: E402
import pyarrow.parquet  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402


class Images(Dataset):
    """Paths in, paths and tensors out; runs in the worker processes."""

    def __init__(self, paths: List[str]) -> None:
        self.paths, self.transform = paths, common.transform(ARGS.model)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tuple[str, Any]:
        with Image.open(self.paths[index]) as image:
            return self.paths[index], self.transform(image.convert("RGB"))


def main() -> None:
    labels = common.labels(ARGS.model)
    model = torch.jit.load(ARGS.model, map_location="cpu").eval()
    common.mark_ready(ARGS.out)
    images = Images(common.list_images(ARGS.images, ARGS.limit))
    loader = DataLoader(images, batch_size=ARGS.batch, num_workers=common.cores())
    schema = pyarrow.schema(zip(common.COLUMNS, (pyarrow.string(), pyarrow.int32(), pyarrow.string(), pyarrow.float32())))
    common.Path(ARGS.out).mkdir(parents=True)
    with pyarrow.parquet.ParquetWriter(f"{ARGS.out}/part-0.parquet", schema) as writer, torch.inference_mode():
        for paths, pixels in loader:
            scores, classes = torch.softmax(model(pixels), 1).max(1)
            names = [labels[i] for i in classes.tolist()]
            columns = [list(paths), classes.to(torch.int32).numpy(), names, scores.numpy()]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    RUN.finish()


if __name__ == "__main__":
    main()
