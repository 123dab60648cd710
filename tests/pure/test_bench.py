"""What the benchmarks run and what they hold it against: workloads, floors, percentiles, options. No device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from engine.random_model import config_of
from engine.step_times import StepTime, idle_share
from tools.bench import make_parser, options, shown
from tools.bench.figures import percentile
from tools.bench.floor import Cost, Step, as_run, floor, together
from tools.bench.rates import Rates
from tools.bench.workload import Job, equal_jobs, longest, poisson_arrivals, random_jobs
from tools.cli import UsageError

RECIPE = (256, (100, 1024), (100, 1024), 0, 128_256)


def llama_cost() -> Cost:
    config = config_of("llama-3.2-1b")
    return Cost.of(SimpleNamespace(config=config, weight_bytes=2_471_628_800, kv_bytes_per_token=32_768))


def test_the_recipe_has_the_totals_that_are_published() -> None:
    jobs = random_jobs(*RECIPE)
    assert sum(len(job.prompt) for job in jobs) == 142_827
    assert sum(job.output_len for job in jobs) == 133_966
    assert max(max(job.prompt) for job in jobs) == 10_000
    assert longest(jobs) <= 2048


def test_a_small_vocabulary_gets_ids_of_its_own() -> None:
    assert max(max(job.prompt) for job in random_jobs(20, (50, 60), (1, 2), 0, 256)) <= 255


def test_no_two_rows_of_a_batch_are_alike() -> None:
    prompts = {tuple(job.prompt) for job in equal_jobs(64, 32, 1, 49_152)}
    assert len(prompts) == 64 and {len(prompt) for prompt in prompts} == {32}


def test_arrivals_are_a_poisson_process_of_the_rate_and_repeat_with_the_seed() -> None:
    jobs, rate = [Job([1], 1)] * 4001, 20.0
    arriving = poisson_arrivals(jobs, rate, seed=3)
    times = np.array([job.arrival for job in arriving])
    gaps = np.diff(times)
    assert times[0] == 0 and arriving == poisson_arrivals(jobs, rate, seed=3)
    # Exponential gaps: mean and standard deviation 1/rate; the variance's own error is sqrt(8/n) of it.
    assert abs(gaps.mean() * rate - 1) < 5 / np.sqrt(len(gaps))
    assert abs(gaps.var() * rate**2 - 1) < 5 * np.sqrt(8 / len(gaps))
    assert {job.arrival for job in poisson_arrivals(jobs, float("inf"), seed=3)} == {0.0}


def test_the_recipes_floor_on_an_h100() -> None:
    """53 thousand output tokens a second at 3.0 TB/s, worked out apart from this code; reading is all of it."""
    result = floor(together(random_jobs(*RECIPE)), llama_cost(), Rates(3.0e12, 790e12))
    assert 133_966 / result.seconds == pytest.approx(53_110, rel=1e-3)
    assert max(result.bytes_seconds, result.flops_seconds) <= result.seconds
    assert result.seconds <= result.bytes_seconds + result.flops_seconds


def test_one_decode_step_reads_weights_and_contexts_once() -> None:
    prefill, *decodes = together([Job([1] * 10, 3), Job([1] * 4, 2)])
    assert prefill == Step(tokens=14, sequences=2, kv_tokens=14, pairs=55 + 10)
    assert decodes == [Step(2, 2, 11 + 5, 16), Step(1, 1, 12, 12)]
    cost = llama_cost()
    assert cost.bytes(decodes[1]) == 2_471_628_800 + 12 * 32_768
    weights = (2_471_628_800 - 2 * 2048 * 33) // 2  # all but the norms are multiplied with
    assert cost.flops(decodes[1]) == 2 * weights + 12 * 4 * 16 * 32 * 64


def test_the_floor_of_steps_as_they_ran_is_never_above_the_truth() -> None:
    ran = as_run([StepTime(0, 1, 3, 0, 30), StepTime(0, 1, 2, 8, 40)])
    assert ran == [Step(3, 3, 30, 30), Step(10, 2, 40, 0)]


def test_idle_share() -> None:
    steps = [StepTime(0, 3.0, 0, 8, 8), StepTime(0.5, 0.5, 1, 0, 9), StepTime(0, 1.0, 1, 0, 10)]
    assert idle_share(steps) == pytest.approx(0.1)
    assert idle_share([step for step in steps if step.is_decode]) == pytest.approx(0.25)
    assert idle_share([]) == 0


@pytest.mark.parametrize("percent", [0, 50, 95, 99, 100])
def test_percentiles_are_numpys(percent: float) -> None:
    values = np.random.default_rng(1).standard_normal(37).tolist()
    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert percentile([2.5], percent) == 2.5


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("", "COMMAND"),
        ("fly", "fly"),
        ("throughput --num-prompts 0", "--num-prompts"),
        ("throughput --input-len 100-9", "shorter"),
        ("throughput --input-len x", "--input-len"),
        ("throughput --temperature -1", "--temperature"),
        ("throughput --temperature nan", "--temperature"),
        ("throughput --batching lazy", "lazy"),
        ("latency --output-len 0", "--output-len"),
        ("latency --num-iters-warmup -1", "--num-iters-warmup"),
        ("prefill --steps 3", "--steps"),
        ("serve-sim --request-rate 0", "--request-rate"),
        ("decode --random-weights toy --model x", "not allowed with"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(typed: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_parser().parse_args(typed.split())
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_the_names_of_vllm_and_the_older_ones_mean_the_same() -> None:
    parse = make_parser().parse_args
    new = parse(["decode", "--random-weights", "toy", "--batch-size", "3", "--input-len", "7", "--enforce-eager"])
    assert parse(["decode", "--shape", "toy", "--batch", "3", "--tokens", "7", "--eager"]) == new
    assert parse(["serve-sim", "--rate", "inf"]).request_rate == float("inf")
    assert parse(["throughput", "--input-len", "512"]).input_len == (512, 512)


@pytest.mark.parametrize(("value", "text"), [(12345.6789, "12,345.679"), (0.000123456, "0.000123"), (7000, "7,000")])
def test_numbers_are_shown_for_a_person(value: float, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("typed", ["", "--enforce-eager", "--deterministic", "--kv-cache-bytes 4096 --seed 3"])
def test_what_is_typed_reaches_the_engine(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def record(**given: object) -> nullcontext[None]:
        seen.update(given)
        return nullcontext()

    monkeypatch.setattr("engine.LLM", record)
    arguments = make_parser().parse_args(["decode", "--quiet", *typed.split()])
    with options.engine(arguments, max_model_len=10, max_num_seqs=2):
        pass
    assert (seen["enforce_eager"], seen["deterministic"]) == ("--enforce" in typed, "--det" in typed)
    assert (seen.get("kv_cache_bytes"), seen["seed"]) == ((4096, 3) if "seed" in typed else (None, 0))
