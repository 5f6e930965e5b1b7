"""Inference over one large raster on several machines: shares of its blocks, mapped over a Dask cluster by Prefect.

Every worker needs this program and the same paths: model, imagery and the folder of the result on a disk that all of
them see. A share leaves its finished blocks beside the result; at the end they are put together once. Who did a block
changes no byte, and a killed run goes on with the blocks that are missing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_dask.task_runners import DaskTaskRunner

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from tasks.inference_options import InferenceOptions, ModelSource, tool_of
from tasks.progress import OnProgress, ignore
from tasks.run_folder import Share

SHARES_A_WORKER = 4  # so that a slow or lost machine holds up little


def infer_on_dask(
    model: ModelFolder,
    imagery: tuple[Path, ...],
    out: Path,
    options: InferenceOptions,
    *,
    source: ModelSource | None = None,
    scheduler: str | None = None,
    shares: int = 2 * SHARES_A_WORKER,
    on_progress: OnProgress = ignore,
    **cluster: Any,
) -> Path:
    """Detect Objects, Classify Pixels or Detect Change on the workers of a Dask scheduler, such as tcp://host:8786.

    `imagery`: what the tool reads, two rasters for Detect Change. Without a scheduler a cluster on this machine is
    started for the while; `cluster`: what DaskTaskRunner's cluster_class gets. Raises what the tool raises.
    """
    runner: Any = DaskTaskRunner(address=scheduler) if scheduler else DaskTaskRunner(cluster_kwargs=cluster)
    given = model, imagery, out, options, source or ModelSource.of(model)
    _infer.with_options(task_runner=runner)(given, shares)
    return run_tool(*given, on_progress=on_progress)


@flow(name="infer on Dask", validate_parameters=False)
def _infer(given: tuple[Any, ...], shares: int) -> None:
    futures = [_share.submit(given, Share(part, shares)) for part in range(shares)]
    for future in futures:
        future.result()


@task(name="share", cache_policy=NO_CACHE)
def _share(given: tuple[Any, ...], share: Share) -> None:
    run_tool(*given, share=share)


def run_tool(
    model: ModelFolder,
    imagery: tuple[Path, ...],
    out: Path,
    options: InferenceOptions,
    source: ModelSource,
    **how: Any,
) -> Path:
    """By the model's type. Raises OptionsError for a tool whose work has no shares."""
    from tasks.classify_pixels import classify_pixels
    from tasks.detect_change import detect_change
    from tasks.detect_objects import detect_objects

    tools: dict[str | None, Callable[..., Path]] = {
        "detect-objects": detect_objects,
        "classify-pixels": classify_pixels,
        "detect-change": detect_change,
    }
    tool = tool_of(model.emd)
    if tool not in tools:
        raise OptionsError(f"expected a model for {', '.join(map(str, tools))}", where=model.name, got=tool)
    return tools[tool](model, *imagery, out, options, source=source, **how)
