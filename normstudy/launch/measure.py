"""Measures networks that have been trained: their weights from the tracking server, a table back to each one's run."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from tqdm import tqdm

from normstudy.config import SHIFTED_EVERY, STATISTICS_BATCH, TrainConfig
from normstudy.data import MEMORY_FORMAT, Data, Split, load_data
from normstudy.errors import ConfigError, Interrupted
from normstudy.evaluate import evaluate
from normstudy.experiment import Experiment
from normstudy.files import require_archives
from normstudy.mnist_c import mnist_c
from normstudy.model import DigitNet
from normstudy.provenance import usable_cores
from normstudy.report.read import read_artifact, without_measure
from normstudy.robustness import calibration, cross_fitted, shift_table, shifted, zero_share
from normstudy.tracking import Artifact, Measure
from normstudy.tracking.result import write_json
from normstudy.tracking.store import log_to_run
from normstudy.train import StopCheck, build_model

Measured = dict[Measure, pd.DataFrame]
Way = Callable[[DigitNet], Measured]


def measure(experiment: Experiment, stop_signal: StopCheck) -> int:
    """Measure the finished runs of an experiment for what its `MEASURES` name; how many runs got a table.

    A run that has its tables is left alone, so an interrupted command goes on where it was.

    Raises `ConfigError` for an experiment that names none, `ReportError` for a trial that hasn't finished,
    `Interrupted` after a stop signal.
    """
    if not experiment.measures:
        raise ConfigError(f"experiment={experiment.name}: names no MEASURES; choose from {', '.join(WAYS)}")
    for config in experiment.configs:
        require_archives(config.dataset)
    torch.set_num_threads(1)
    done = 0
    for name in map(Measure, experiment.measures):
        runs = without_measure(experiment.configs, name, may_diverge=experiment.may_diverge)
        by_data: dict[tuple[str, int, int, int], list[tuple[TrainConfig, str]]] = {}
        for config, run_id in runs:
            images = (config.dataset, config.val_size, config.train_size, config.split)
            by_data.setdefault(images, []).append((config, run_id))
        with tqdm(total=len(runs), desc=name, unit="run", disable=None) as bar:
            for same_data in by_data.values():
                way = WAYS[name](load_data(same_data[0][0], torch.device("cpu")))
                one = partial(_measure_one, way, stop_signal)
                with ThreadPoolExecutor(usable_cores()) as pool:  # torch's work frees Python's lock
                    for _ in pool.map(one, same_data):
                        bar.update()
        done += len(runs)
    return done


def _measure_one(way: Way, stop_signal: StopCheck, trial: tuple[TrainConfig, str]) -> None:
    """Measure a run and log its tables."""
    if signal_number := stop_signal():
        raise Interrupted(signal_number)
    log(trial[1], way(trained(*trial)))


def trained(config: TrainConfig, run_id: str) -> DigitNet:
    """The network of a finished run. Raises `ReportError` for weights that aren't this network's."""

    def network(content: bytes) -> DigitNet:
        # ghosts matter in training alone
        model = build_model(config.model_copy(update={"ghost_batch_size": 0}))
        try:
            model.load_state_dict(load(content))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError("it doesn't hold the weights of this network") from error
        return model.to(memory_format=MEMORY_FORMAT["cpu"])

    return read_artifact(run_id, Artifact.WEIGHTS, network)


def log(run_id: str, tables: Measured) -> None:
    """Add tables to a run that has ended."""
    with tempfile.TemporaryDirectory() as folder:
        for name, table in tables.items():
            file = Path(folder) / Path(name.path).name
            write_json(file, table.to_dict(orient="split", index=False))
            log_to_run(run_id, file, folder=str(Path(name.path).parent))


def weights(data: Data) -> Way:
    """How many weights are at zero."""
    return lambda model: {Measure.WEIGHTS: pd.DataFrame({"zero_share": [zero_share(model)]})}


def statistics(data: Data) -> Way:
    """BatchNorm's running averages against statistics of the test images themselves, on unchanged test images."""
    return lambda model: {Measure.STATISTICS: shift_table(model, [("none", 0, data.test)])}


def some(split: Split) -> Split:
    """The images that are asked about under every corruption."""
    return split.take(torch.arange(0, len(split), SHIFTED_EVERY))


def shift(data: Data) -> Way:
    """Every fourth test image under every corruption: a network takes 36 evaluations, with BatchNorm 72."""
    shifts = shifted(some(data.test))
    return lambda model: {Measure.SHIFT: shift_table(model, shifts)}


def mnist_c_shift(data: Data) -> Way:
    """The same images under MNIST-C's corruptions: a network takes 16 evaluations, with BatchNorm 48."""
    shifts = mnist_c(some(data.test))
    return lambda model: {Measure.MNIST_C: shift_table(model, shifts, batch=STATISTICS_BATCH)}


def calibrated(data: Data) -> Way:
    """How sure the network is and how right, before and after a temperature fitted on the images held out."""
    if (val_split := data.val) is None:
        raise ConfigError("calibration: needs val_size above 0, images held out that the temperature is fitted on")

    def tables(model: DigitNet) -> Measured:
        val, test = (evaluate(model, split).logits for split in (val_split, data.test))
        found = calibration(val, val_split.labels, test, data.test.labels)
        numbers = {name: [value] for name, value in vars(found).items() if name != "reliability"}
        bins = found.reliability.assign(scaled=found.reliability["scaled"].astype(int))
        # the table that tells `without_measure` that a run is done comes last: a stop between the two leaves none
        return {Measure.RELIABILITY: bins, Measure.CALIBRATION: pd.DataFrame(numbers)}

    return tables


def trained_on(data: Data) -> Way:
    """What the network makes of the images that it was trained on, without augmentation."""

    def table(model: DigitNet) -> Measured:
        found = evaluate(model, data.train)
        return {Measure.TRAINING: pd.DataFrame({"accuracy": [found.accuracy], "loss": [found.loss]})}

    return table


def crossfitted(data: Data) -> Way:
    """Its temperature on the test images, fold by fold."""
    return lambda model: {Measure.CROSSFIT: cross_fitted(evaluate(model, data.test).logits, data.test.labels)}


WAYS: dict[Measure, Callable[[Data], Way]] = {
    Measure.WEIGHTS: weights,
    Measure.STATISTICS: statistics,
    Measure.SHIFT: shift,
    Measure.MNIST_C: mnist_c_shift,
    Measure.CALIBRATION: calibrated,
    Measure.TRAINING: trained_on,
    Measure.CROSSFIT: crossfitted,
}
