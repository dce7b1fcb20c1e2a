"""The statistics of benchmarks/soak.py on series whose slope is known, and a job of seconds."""

import gc
import json
import sys
import time
from dataclasses import asdict
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import soak  # noqa: E402
from process_probe import Probe, Sample  # noqa: E402
from soak_statistics import Trend, fit_trend, thirds  # noqa: E402

HOURS = np.arange(240) / 720  # 20 minutes, a sample every 5 s


def noise(rho, scale, seed):
    """Noise of that standard deviation which remembers the share ``rho`` of the sample before."""
    draw = np.random.default_rng(seed)
    series = scale * draw.standard_normal(len(HOURS))
    for index in range(1, len(HOURS)):
        series[index] = rho * series[index - 1] + np.sqrt(1 - rho**2) * series[index]
    return series


@pytest.mark.parametrize("slope", [0.0, 3.0, 40.0, -40.0])
def test_without_noise_the_slope_is_exact(slope):
    trend = fit_trend(HOURS, 500 + slope * HOURS)
    assert trend.slope == pytest.approx(slope, abs=1e-6)
    assert trend.low == pytest.approx(slope, abs=1e-3) == trend.high


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
def test_the_interval_holds_the_true_slope_nineteen_times_in_twenty(rho):
    slope, runs = 7.0, 300
    hits = 0
    for seed in range(runs):
        trend = fit_trend(HOURS, slope * HOURS + noise(rho, 1.0, seed))
        hits += trend.low <= slope <= trend.high
    # 285 expected, standard deviation 3.8. Plain least squares gets 77 at rho 0.95.
    assert hits >= 275


def test_one_step_is_no_growth():
    values = np.full(len(HOURS), 600.0)
    values[:40] = 590
    # Plain least squares would be sure of it: 25 +- 4 MB an hour.
    assert fit_trend(HOURS, values + noise(0.5, 0.1, 0)).verdict != "grows"


@pytest.mark.parametrize(
    ("slope", "rho", "scale", "verdict"),
    [
        (0, 0.9, 1.0, "flat"),
        (3, 0.0, 0.01, "flat"),  # surely above zero, and tolerated
        (60, 0.9, 1.0, "grows"),
        (0, 0.9, 200.0, "too short to tell"),
        (10, 0.9, 200.0, "too short to tell"),
    ],
)
def test_verdicts(slope, rho, scale, verdict):
    values = 500 + slope * HOURS + noise(rho, scale, seed=1)
    assert fit_trend(HOURS, values).verdict == verdict


@pytest.mark.parametrize(
    ("trend", "verdict"),
    [
        (Trend(5.0, 4.0, 6.0), "flat"),
        (Trend(5.1, 0.1, 10.1), "grows"),
        (Trend(5.1, -0.1, 10.3), "flat"),
        (Trend(0.0, -50.0, 50.0), "flat"),
        (Trend(0.0, -51.0, 51.0), "too short to tell"),
        (Trend(-30.0, -31.0, -29.0), "flat"),
    ],
)
def test_the_criterion(trend, verdict):
    assert trend.verdict == verdict


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        fit_trend(range(9), range(9))
    with pytest.raises(ValueError, match="10 and 11"):
        fit_trend(range(10), range(11))


def test_medians_of_thirds():
    assert thirds([1, 1, 9, 5, 5, 5, 2, 3, 3]) == (1, 3)
    assert thirds([4]) == (4, 4)


def wait_for(ready):
    """Wait until ``ready()`` is something, and return that."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError("the probe does not look any more")


def test_the_probe_sees_memory_and_descriptors_come(tmp_path):
    gc.collect()  # what earlier tests left, before anything is measured
    files = []
    with Probe(interval=0.05) as probe:
        probe.step(0.25)
        wait_for(lambda: len(probe.samples) >= 3)
        before = probe.samples[-1]
        # Not from malloc, which may have as much left over from earlier tests.
        block = mmap(-1, 80_000_000)
        block.write(b"1" * len(block))
        files = [(tmp_path / str(index)).open("w") for index in range(5)]
        seen = len(probe.samples)
        wait_for(lambda: len(probe.samples) >= seen + 2)
    first, last = probe.samples[0], probe.samples[-1]
    assert last.rss_mb - before.rss_mb == pytest.approx(len(block) / 1e6, abs=20)
    assert last.descriptors - first.descriptors == len(files)
    assert last.threads == first.threads
    assert first.step_seconds == 0.25 and last.step_seconds is None
    for file in [*files, block]:
        file.close()


def test_the_probe_tells_what_is_held_from_what_was(tmp_path):
    def look(probe):
        seen = len(probe.samples)
        probe.step(0.1)
        return wait_for(
            lambda: [one for one in probe.samples[seen:] if one.step_seconds is not None]
        )[0].allocated_mb

    with Probe(interval=0.05) as probe:
        before = look(probe)
        small = [np.ones(1000) for _ in range(10_000)]
        held = look(probe)
        del small
        after = look(probe)
    if before is None:
        pytest.skip("this C library does not tell")
    assert held - before == pytest.approx(80, abs=5)
    assert after - before == pytest.approx(0, abs=5), "though malloc may keep the memory"


def sample(seconds, rss, allocated, step):
    found = Sample(seconds, rss, allocated, 0, 0, descriptors=8, threads=1, step_seconds=step)
    return asdict(found)


@pytest.mark.parametrize(
    ("minutes", "slope", "verdict"),
    [(20, 60, "grows"), (20, 0, "flat"), (7, 60, "too short to tell")],
)
def test_a_job_is_judged_without_its_warm_up(minutes, slope, verdict):
    seconds = np.arange(0, 60 * minutes, 5.0)
    rss = 500 + slope * seconds / 3600 + 300 * np.minimum(seconds / seconds[-1] / 0.25, 1)
    samples = [
        sample(at, memory, None if index % 3 else memory / 2, None if index % 2 else 0.2)
        for index, (at, memory) in enumerate(zip(seconds, rss, strict=True))
    ]
    result = {"minutes": minutes, "steps": 99, "samples": samples}
    found = soak.judge(result, warmup=0.26)
    assert found["rss_mb"]["verdict"] == verdict
    assert found["rss_mb"]["slope"] == pytest.approx(slope, abs=1e-3)
    assert found["allocated_mb"]["slope"] == pytest.approx(slope / 2, abs=1e-3)
    assert "workers_pss_mb" not in found, "it has none"
    assert found["step_seconds"] == (0.2, 0.2)
    assert f"| {verdict} " in soak.table({"training": {**result, "found": found}})


def test_a_job_that_is_left_out_keeps_its_results(tmp_path, monkeypatch, capsys):
    def growing_training(name, minutes, interval):
        slope = 60 if name == "training" else 0
        times = range(0, int(60 * minutes), 5)
        samples = [sample(at, 500 + slope * at / 3600, None, 0.2) for at in times]
        return {"minutes": minutes, "steps": 9, "samples": samples}

    monkeypatch.setattr(soak, "run_apart", growing_training)
    out = tmp_path / "soak.json"
    assert soak.main(["--inference-minutes", "0", "--out", str(out)]) == 1, "it grows"
    assert soak.main(["--train-minutes", "0", "--out", str(out)]) == 0, "this one does not"
    assert list(json.loads(out.read_text())["jobs"]) == ["training", "inference"]
    assert capsys.readouterr().out.count("training, resident") == 2
