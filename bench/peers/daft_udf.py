#!/usr/bin/env python3
"""Daft on its native runner: download and decode as expressions, the model in a class UDF, write_parquet.

Daft's own decoder reads the files, in as many threads as it likes. Its `resize` knows neither the shorter side nor this
recipe's filter, so torchvision resizes inside the UDF, as in Daft's tutorials with torchvision models.
"""

import os
from typing import Any, Dict, List, Optional

import common

ARGS = common.arguments(__doc__)
RUN = common.Run("daft", ARGS)

# No statistics sent.
os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
os.environ.setdefault("DO_NOT_TRACK", "1")

import daft  # noqa: E402
from daft import DataType, col  # noqa: E402
from daft.functions import decode_image, download  # noqa: E402

ANSWER = DataType.struct({"class_index": DataType.int32(), "label": DataType.string(), "score": DataType.float32()})


@daft.cls
class Predictor:
    """The model. Daft makes one for each of its threads; held to a single one it took twice as long."""

    def __init__(self, model: str, out: str) -> None:
        import torch

        self.torch, self.labels, self.transform = torch, common.labels(model), common.transform(model)
        self.model = torch.jit.load(model, map_location="cpu").eval()
        common.mark_ready(out)

    @daft.method.batch(return_dtype=ANSWER, batch_size=ARGS.batch)
    def __call__(self, images: Any) -> List[Optional[Dict[str, Any]]]:
        from PIL import Image

        pixels = self.torch.stack([self.transform(Image.fromarray(image)) for image in images.to_pylist()])
        with self.torch.inference_mode():
            scores, classes = self.torch.softmax(self.model(pixels), 1).max(1)
        return [
            {"class_index": index, "label": self.labels[index], "score": score}
            for index, score in zip(classes.tolist(), scores.tolist())
        ]


def main() -> None:
    frame = daft.from_pydict({"path": common.list_images(ARGS.images, ARGS.limit)})
    frame = frame.with_column("image", decode_image(download(col("path")), mode="RGB"))
    frame = frame.with_column("answer", Predictor(ARGS.model, ARGS.out)(col("image")))
    frame = frame.select("path", *(col("answer")[name].alias(name) for name in common.COLUMNS[1:]))
    frame.write_parquet(ARGS.out)
    RUN.finish()


if __name__ == "__main__":
    main()
