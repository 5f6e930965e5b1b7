import pytest

from registry.errors import OptionsError, RasterFunctionError
from tasks.inference_options import DetectOptions
from tasks.shrinking import shrinking


@pytest.mark.slow
def test_out_of_memory_halves_the_tiles_at_once_until_they_fit() -> None:
    tried = []

    def run(options: DetectOptions) -> str:
        tried.append(int(options.arguments["batch_size"]))
        if tried[-1] > 3:
            try:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            except RuntimeError as error:
                raise RasterFunctionError("the raster function failed") from error
        return "done"

    assert "done" == shrinking(run, DetectOptions(arguments={"batch_size": "16"}))
    assert [16, 8, 4, 2] == tried


def test_what_a_process_of_its_own_tells_of_its_memory_is_understood() -> None:
    def run(options: DetectOptions) -> str:
        if options.arguments.get("batch_size") != "2":
            raise RasterFunctionError("_ArrayMemoryError: Unable to allocate 1.2 GiB for an array", where="town: Find")
        return "done"

    assert "done" == shrinking(run, DetectOptions())


@pytest.mark.slow
def test_one_tile_that_is_too_much_is_the_end() -> None:
    def run(_options: DetectOptions) -> str:
        raise MemoryError

    with pytest.raises(MemoryError):
        shrinking(run, DetectOptions(arguments={"batch_size": "2"}))


def test_another_error_is_not_tried_again() -> None:
    tried = []

    def run(_options: DetectOptions) -> str:
        tried.append(1)
        raise RuntimeError("wrong shape")

    with pytest.raises(RuntimeError, match="shape"):
        shrinking(run, DetectOptions())
    assert [1] == tried


def test_a_function_that_takes_no_number_of_tiles_tells_of_its_memory() -> None:
    def run(options: DetectOptions) -> str:
        if options.arguments:
            raise OptionsError("no argument batch_size", where="town", do="it knows none")
        raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        shrinking(run, DetectOptions())
