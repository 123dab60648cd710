"""The least time that the hardware needs for a workload: each step must move its bytes and do its arithmetic.

    floor = sum over steps of max(bytes / read bandwidth, FLOPs / rate of a large matrix product)

Bytes of a step: every weight once, and the keys and values of every sequence once. FLOPs: 2 for each weight of the
layers and each token, 2 for each weight of the vocabulary's matrix and each sequence, 4 for each pair of query and key,
head and element of it. Activations, and writing keys and values, are left out: a floor may be low, never high.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.bench.rates import Rates
from tools.bench.workload import Job

if TYPE_CHECKING:
    from engine import LLM
    from engine.config import ModelConfig
    from engine.step_times import StepTime


@dataclass(frozen=True)
class Step:
    """What one step has to do. `kv_tokens`: keys and values read; `pairs`: pairs of a query and a key that it sees."""

    tokens: int
    sequences: int
    kv_tokens: int
    pairs: int


@dataclass(frozen=True)
class Cost:
    """What a model asks for: bytes of all weights and of one token's keys and values; FLOPs by what they grow with."""

    weight_bytes: int
    kv_bytes_per_token: int
    flops_per_token: int
    flops_per_sequence: int
    flops_per_pair: int

    @classmethod
    def of(cls, llm: LLM) -> Cost:
        """The cost of the model that `llm` runs."""
        c = llm.config
        return cls(
            weight_bytes=llm.weight_bytes,
            kv_bytes_per_token=llm.kv_bytes_per_token,
            flops_per_token=2 * c.num_layers * layer_weights(c),
            flops_per_sequence=2 * c.hidden_size * c.vocab_size,
            flops_per_pair=4 * c.num_layers * c.num_heads * c.head_dim,
        )

    def bytes(self, step: Step) -> int:
        """Bytes that the step must read."""
        return self.weight_bytes + self.kv_bytes_per_token * step.kv_tokens

    def flops(self, step: Step) -> int:
        """Multiplications and additions of the step."""
        layers = self.flops_per_token * step.tokens + self.flops_per_pair * step.pairs
        return layers + self.flops_per_sequence * step.sequences


def layer_weights(config: ModelConfig) -> int:
    """Elements of one layer's matrices."""
    attention = 2 * config.num_heads * config.head_dim + 2 * config.num_kv_heads * config.head_dim
    return config.hidden_size * (attention + 3 * config.intermediate_size)


@dataclass(frozen=True)
class Floor:
    """Seconds: of the bytes alone, of the FLOPs alone, and with the larger of the two in each step."""

    bytes_seconds: float
    flops_seconds: float
    seconds: float


def floor(steps: Iterable[Step], cost: Cost, rates: Rates) -> Floor:
    """The floor of these steps."""
    times = [(cost.bytes(step) / rates.read_bytes, cost.flops(step) / rates.flops) for step in steps]
    return Floor(sum(b for b, _ in times), sum(f for _, f in times), sum(map(max, times)))


def together(jobs: Sequence[Job]) -> list[Step]:
    """The fewest steps for `jobs`: all prompts in one, then one token of every answer that has not ended in each."""
    return [_prefill([len(job.prompt) for job in jobs]), *_decodes(jobs)]


def _prefill(prompts: Sequence[int]) -> Step:
    return Step(sum(prompts), len(prompts), sum(prompts), sum(n * (n + 1) // 2 for n in prompts))


def _decodes(jobs: Sequence[Job]) -> list[Step]:
    """Step k reads the prompt and k tokens of each answer that is longer than k: the prefill gave the first one."""
    steps = []
    for k in range(1, max(job.output_len for job in jobs)):
        contexts = [len(job.prompt) + k for job in jobs if job.output_len > k]
        steps.append(Step(len(contexts), len(contexts), sum(contexts), sum(contexts)))
    return steps


def as_run(steps: Sequence[StepTime]) -> list[Step]:
    """Steps as an engine ran them.

    The pairs and the logits of prefills are not known: a step that has some counts no pairs, and only decodes' logits.
    """
    return [
        Step(
            tokens=step.num_decodes + step.num_prefill_tokens,
            sequences=step.num_decodes,
            kv_tokens=step.kv_tokens,
            pairs=step.kv_tokens if step.is_decode else 0,
        )
        for step in steps
    ]
