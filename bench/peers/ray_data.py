#!/usr/bin/env python3
"""Ray Data, as its batch inference example for images: read_images, map, map_batches with an actor, write_parquet.

Half of the cores go to actors that hold the model, the rest to the tasks that read and decode; an actor's forward
pass may use all of them, as the other peers' does. A pool that reserved every core would leave none to read with.
"""

import os
from typing import Any, Dict

import common

ARGS = common.arguments(__doc__)
RUN = common.Run("ray", ARGS)

# Before Ray starts its own processes, which inherit them: our modules, no token in the home folder, no statistics sent.
os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy  # noqa: E402
import ray  # noqa: E402

_TRANSFORMS: Dict[str, Any] = {}


def preprocess(row: Dict[str, Any], model: str) -> Dict[str, Any]:
    """One image's pixels; runs wherever Ray puts it."""
    from PIL import Image

    if model not in _TRANSFORMS:
        _TRANSFORMS[model] = common.transform(model)
    return {"path": row["path"], "pixels": _TRANSFORMS[model](Image.fromarray(row["image"])).numpy()}


class Predictor:
    """The model, in an actor."""

    def __init__(self, model: str, out: str, threads: int) -> None:
        import torch

        # Ray allows an actor of one core one thread.
        torch.set_num_threads(threads)
        self.torch, self.labels = torch, numpy.array(common.labels(model))
        self.model = torch.jit.load(model, map_location="cpu").eval()
        common.mark_ready(out)

    def __call__(self, batch: Dict[str, Any]) -> Dict[str, Any]:
        pixels = self.torch.from_numpy(numpy.ascontiguousarray(batch["pixels"]))
        with self.torch.inference_mode():
            scores, classes = self.torch.softmax(self.model(pixels), 1).max(1)
        index = classes.numpy().astype(numpy.int32)
        answers = (batch["path"], index, self.labels[index], scores.numpy())
        return dict(zip(common.COLUMNS, answers))


def main() -> None:
    cores = common.cores()
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = common.list_images(ARGS.images, ARGS.limit)
    dataset = ray.data.read_images(images, mode="RGB", include_paths=True)
    dataset = dataset.map(preprocess, fn_kwargs={"model": ARGS.model}).map_batches(
        Predictor,
        fn_constructor_args=(ARGS.model, ARGS.out, cores),
        batch_size=ARGS.batch,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, cores // 2)),
    )
    dataset.write_parquet(ARGS.out)
    RUN.finish()


if __name__ == "__main__":
    main()
