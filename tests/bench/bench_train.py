"""What training costs beside the network itself: our loop, loaders and augmentation against a bare PyTorch loop.

    python tests/bench/bench_train.py [FOLDER] [--network unet] [--steps 30] [--rounds 3] [--side 256]

Both loops train the same network with the same batches' size, loss and optimizer; the bare one has its batches in
memory. They take turns in one process, so a busy machine is busy for both. CPU seconds come first: they tell most.
The last lines tell how many images one loader process delivers, and how many the network consumes: their quotient is
the number of workers that a GPU of any speed needs.
"""

import argparse
import logging
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
import bench_scene  # type: ignore[import-not-found]  # noqa: E402

FORMAT = {"classify_pixels": "Classified_Tiles", "detect_objects": "PASCAL_VOC_rectangles"}
CARRIES = {"classify_pixels": "mask", "detect_objects": "boxes"}
Figures = tuple[float, float]  # CPU and wall seconds
BATCH, EPOCHS = 4, 3  # the first epoch reads from the disk, as every training does


def export(folder: Path, serves: str, side: int) -> Any:
    """Chips of the synthetic scene, made once."""
    from tasks.chips import ChipFolder
    from tasks.export import ExportOptions, export_training_data

    out = folder / f"chips_{FORMAT[serves]}_{side}"
    if not out.exists():
        options = ExportOptions(metadata_format=FORMAT[serves], tile_size=side, stride=side)
        imagery, labels, *_ = bench_scene.write(folder, side=8 * side, polygons=300)
        export_training_data(imagery, labels, out, options)
    return ChipFolder.open(out)


def build(name: str, chips: Any) -> Any:
    import torch

    from registry import plugins
    from tasks import networks
    from tasks.targets import statistics as bands

    torch.manual_seed(1)
    options = {"backbone": "timm:tf_efficientnet_lite0"}
    network = plugins.load(networks, name).build(len(bands(chips)), len(chips.classes), **options)
    return network.to(memory_format=torch.channels_last)


def bare(network: Any, batches: list[Any], steps: int) -> Figures:
    """The least that training is: loss, gradients, a step of AdamW."""
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    network.train()
    clock = Clock()
    clock.start()
    for i in range(steps):
        images, targets, _ = batches[i % len(batches)]
        loss = network.loss(images.contiguous(memory_format=torch.channels_last), targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    clock.stop()
    return clock.seconds[0] / steps, clock.seconds[1] / steps


def ours(network: Any, chips: Any, load: Any, steps: int, out: Path) -> Figures:
    """The loop of `tasks.train` over chips on disk, from its first step to its last, without validation."""
    from tasks import fitting, loading
    from tasks.goals import GOALS
    from tasks.progress import ignore
    from tasks.telling import Telling
    from tasks.train_options import TrainOptions

    epochs = max(EPOCHS, math.ceil(steps * BATCH / len(chips.names)))
    options = TrainOptions(stop_training=False, max_epochs=epochs, batch_size=BATCH)
    telling, clock = Telling(out, (), ignore, ignore), Clock()
    telling.on_train_start = lambda *_: clock.start()  # type: ignore[method-assign]
    telling.on_train_epoch_end = lambda *_: clock.stop()  # type: ignore[method-assign]
    trainer = fitting.trainer(out, options, "validation_loss", telling, BATCH)
    trainer.callbacks = [telling]  # type: ignore[attr-defined]
    fit = fitting.Fitting(network, chips.classes, GOALS[load.carries], options, rate=1e-4, pretrained=True)
    with fitting._quiet():
        trainer.fit(fit, loading.loader(chips, chips.names[: steps * BATCH // epochs], load, train=True))
    return tuple(figure / trainer.global_step for figure in clock.seconds)  # type: ignore[return-value]


class Clock:
    """CPU and wall seconds from `start` to the last `stop`, child processes included."""

    def start(self) -> None:
        self.before, self.since = os.times(), time.perf_counter()

    def stop(self) -> None:
        self.seconds = sum(os.times()[:4]) - sum(self.before[:4]), time.perf_counter() - self.since


def loaded(chips: Any, load: Any) -> float:
    """Images per second of one process, chips in memory as from the second epoch on."""
    import torch

    from tasks.loading import Chips

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    data = Chips(chips, chips.names, load)
    [data[i] for i in range(len(data))]
    clock = Clock()
    clock.start()
    [data[(epoch, i, 0)] for epoch in range(2) for i in range(len(data))]
    clock.stop()
    torch.set_num_threads(threads)
    return 2 * len(data) / clock.seconds[1]


def measure(folder: Path, name: str, steps: int, rounds: int, side: int) -> None:
    from registry import plugins
    from tasks import fitting, loading, networks
    from tasks.augment import pipeline
    from tasks.train_options import TrainOptions

    serves = plugins.load(networks, name).SERVES[0]
    chips = export(folder, serves, side)
    fitting.prepare(1, 1)
    load = loading.Loading(BATCH, CARRIES[serves], augment=pipeline(TrainOptions()), seed=1)
    batches = list(loading.loader(chips, chips.names, replace(load, augment=None), train=True))
    network = build(name, chips)
    bare(network, batches, 3)  # what is done once
    seen: dict[str, list[Figures]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        seen["bare"].append(bare(network, batches, steps))
        seen["ours"].append(ours(network, chips, load, steps, folder / "run"))
    print(f"{name}, {len(chips.names)} chips of {side} px, batch {BATCH}, {steps} steps, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<8}{'CPU ms/step':>12}{'wall ms/step':>14}{'ratio of CPU':>14}{'ratio':>8}")
    for kind, figures in seen.items():
        ratios = [[a / b for a, b in zip(x, y, strict=True)] for x, y in zip(figures, seen["bare"], strict=True)]
        cpu, wall = (statistics.median(f[i] for f in figures) * 1000 for i in (0, 1))
        spent, ratio = (statistics.median(r[i] for r in ratios) for i in (0, 1))
        print(f"{kind:<8}{cpu:>12.1f}{wall:>14.1f}{spent:>14.3f}{ratio:>8.3f}")
    consumed = BATCH / statistics.median(wall for _, wall in seen["bare"])
    rate = loaded(chips, load)
    print(f"one loader process delivers {rate:.0f} images/s; the network takes {consumed:.1f}: {rate / consumed:.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--network", default="unet")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=256)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        measure(given.folder or Path(temporary), given.network, given.steps, given.rounds, given.side)


if __name__ == "__main__":
    main()
