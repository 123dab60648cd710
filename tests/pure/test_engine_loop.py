"""The engine's loop, scheduler and KV cache together, over a model of the device that knows what each page holds.

The model runs steps in order, like a stream, and keeps for every slot of the pool the tokens that its keys and values
stand for. So a page that is read before it is written, given to two writers, or shared by the wrong prompt, is seen.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.answer import Answer
from engine.kv_cache import KVCache
from engine.llm_engine import LLMEngine
from engine.outputs import CompletionOutput, Metrics, RequestOutput
from engine.sampling_params import SamplingParams
from engine.scheduler import Scheduler
from tests.pure.test_scheduler import SilentDecoder

PAGE, PAGES, SEQS, BUDGET = 4, 9, 3, 10
END = 5  # the token that ends a text


class Step:
    def __init__(self, batch, chosen):
        self.batch, self._chosen = batch, chosen

    def tokens(self):
        return self._chosen

    def logprobs(self):
        return None


class DeviceModel:
    """Runs batches: `contents` by slot is the token there and all before it; `tokens` what each request has come to."""

    times = None

    def __init__(self, cache, choose):
        self.cache, self.choose = cache, choose
        self.contents: dict[int, tuple[int, ...]] = {}
        self.tokens: dict[int, list[int]] = {}

    def launch(self, batch):
        pieces = batch.pieces
        assert pieces, "an empty step"
        assert sum(piece.stop - piece.start for piece in pieces) <= BUDGET
        assert len(pieces) == len({piece.request.index for piece in pieces}) <= SEQS
        assert all(piece.start < piece.stop for piece in pieces), "a piece without a token"
        for piece in pieces:
            known = self.tokens.setdefault(piece.request.index, list(piece.request.token_ids))
            assert known[: len(piece.request.token_ids)] == piece.request.token_ids and piece.stop <= len(known)
        self._copy(batch)
        written = [slot for piece in pieces for slot in self._write(piece)]
        assert len(set(written)) == len(written), "two sequences write to one slot"
        for piece in pieces:
            self._read(piece)
        return Step(batch, [self._sample(piece) for piece in pieces])

    def _copy(self, batch):
        for wave in batch.copies:
            sources, targets, _ = zip(*wave, strict=True)
            assert len(set(targets)) == len(targets) and not set(sources) & set(targets), "copies that race"
            for source, target, tokens in wave:
                for offset in range(PAGE):
                    held = self.contents.get(source * PAGE + offset, ()) if offset < tokens else ()
                    self.contents[target * PAGE + offset] = held

    def _write(self, piece):
        pages = self.cache.table(piece.request).pages
        for position in range(piece.start, piece.stop):
            slot = pages[position // PAGE] * PAGE + position % PAGE
            self.contents[slot] = tuple(self.tokens[piece.request.index][: position + 1])
            yield slot

    def _read(self, piece):
        """Attention reads all tokens of its own sequence, and finds just these."""
        pages = self.cache.table(piece.request).pages
        row = self.cache.block_tables[piece.request.row]
        assert row[: len(pages)].tolist() == pages
        for position in range(piece.stop):
            held = self.contents.get(pages[position // PAGE] * PAGE + position % PAGE)
            assert held == tuple(self.tokens[piece.request.index][: position + 1])

    def _sample(self, piece):
        if not piece.samples:
            return -1  # nobody may look at it
        token = self.choose(piece)
        self.tokens[piece.request.index].append(token)
        return token


class Engine(RuleBasedStateMachine):
    """Any order of arrivals, steps and aborts over a pool too small for all, reading tokens a step late or not."""

    @initialize(
        lookahead=st.booleans(), prefix_caching=st.booleans(), batching=st.sampled_from(["continuous", "static"])
    )
    def start(self, lookahead, prefix_caching, batching):
        self.cache = KVCache(PAGES, PAGE, SEQS, PAGES, prefix_caching)
        self.scheduler = Scheduler(self.cache, SEQS, BUDGET, batching)
        self.ends = False
        self.model = DeviceModel(self.cache, self._choose)
        self.engine = LLMEngine(self.scheduler, self.model, lookahead)
        self.outputs: dict[int, RequestOutput] = {}
        self.live: set[int] = set()

    def _choose(self, piece):
        """A token that tells its sequence apart; the end where the step's draw says so."""
        return END if self.ends else 100 + 7 * piece.request.index + piece.stop

    @rule(
        prompt=st.integers(1, 20), tokens=st.integers(1, 12), n=st.integers(1, 3), priority=st.integers(0, 1),
        shared=st.integers(0, 12),
    )  # fmt: skip
    def add(self, prompt, tokens, n, priority, shared):
        index = len(self.outputs)
        ids = [*range(min(shared, prompt)), *(1000 + index * 50 + i for i in range(max(0, prompt - shared)))]
        output = RequestOutput(str(index), None, ids, [CompletionOutput(i) for i in range(n)], False, Metrics(prompt))
        params = SamplingParams(max_tokens=tokens)
        answers = [Answer(index, output, params, SilentDecoder(), frozenset({END}), i) for i in range(n)]
        self.engine.add_request(index, ids, params, answers, priority)
        self.outputs[index] = output
        self.live.add(index)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data):
        index = data.draw(st.sampled_from(sorted(self.live)))
        self.live.remove(index)
        self.engine.abort_request(index)
        assert self.outputs[index].finished

    @precondition(lambda self: self.live)
    @rule(ends=st.booleans())
    def step(self, ends):
        self.ends = ends
        events = self.engine.step()
        assert {event.index for event in events} <= self.live, "an event of a request that has ended"
        self.live -= {event.index for event in events if event.output.finished}

    @invariant()
    def pages_are_held_as_often_as_they_are_listed(self):
        rows = [request.row for request in self.scheduler.running]
        assert len(set(rows)) == len(rows) and min(rows, default=0) >= 0
        listed = Counter(page for row in rows for page in self.cache._tables[row].pages)
        assert all(self.cache.pool.holders(page) == listed[page] for page in range(PAGES))
        assert self.cache.available == sum(not listed[page] for page in range(PAGES))

    @invariant()
    def names_and_pages_agree(self):
        pool = self.cache.pool
        assert {page: name for name, page in pool._named.items()} == {
            number: page.name for number, page in enumerate(pool._pages) if page.name is not None
        }

    @invariant()
    def at_most_a_page_less_a_token_is_wasted(self):
        for request in self.scheduler.running:
            held = len(self.cache.table(request).pages) * PAGE
            written = max(request.num_computed, request.num_prompt_tokens if request.leader else 0)
            assert held - written < PAGE

    def teardown(self):
        steps = 0
        while self.live:
            self.step(ends=False)
            steps += 1
            assert steps < 2000, "a request never ends"
        assert self.engine.step() == [], "what an abort left under way"
        assert self.cache.available == PAGES and not self.scheduler.has_work
        assert len(self.cache._free_rows) == SEQS and not self.engine._live and not self.engine._under_way
        for output in self.outputs.values():
            assert output.finished and all(completion.finish_reason for completion in output.outputs)


Engine.TestCase.settings = settings(max_examples=200, report_multiple_bugs=False, stateful_step_count=40)
TestEngine = Engine.TestCase


def run(lookahead, n=1, prompt=tuple(range(10)), tokens=4, **pool):
    """One prompt's answers; the engine, and how many steps it took."""
    cache = KVCache(pool.get("pages", 20), PAGE, SEQS, 20)
    scheduler = Scheduler(cache, SEQS, BUDGET)
    engine = LLMEngine(scheduler, DeviceModel(cache, lambda piece: 100 + piece.stop), lookahead)
    output = RequestOutput(
        "0", None, list(prompt), [CompletionOutput(i) for i in range(n)], False, Metrics(len(prompt))
    )
    params = SamplingParams(max_tokens=tokens)
    engine.add_request(0, prompt, params, [Answer(0, output, params, SilentDecoder(), completion=i) for i in range(n)])
    steps = 0
    while engine.has_unfinished_requests:
        engine.step()
        steps += 1
    return engine, output, steps


@pytest.mark.parametrize("lookahead", [False, True])
def test_the_answers_to_a_prompt_compute_it_once_and_share_its_pages(lookahead):
    engine, output, steps = run(lookahead, n=3)
    assert [len(completion.token_ids) for completion in output.outputs] == [4, 4, 4]
    statistics = engine.cache.statistics
    assert statistics.hit_tokens == 2 * 9, "each fork runs the prompt's last token alone"
    assert statistics.copied_pages == 2, "each fork writes to a copy of the half-full page"
    assert steps == 5, "the prompt, then four tokens of the two forks"


def test_looking_ahead_takes_no_more_steps_where_lengths_are_known():
    assert run(lookahead=True)[2] == run(lookahead=False)[2] == 4


def test_a_step_too_many_is_not_seen():
    """The first text ends at its first token, which the host reads when the second step is under way already."""
    cache = KVCache(20, PAGE, SEQS, 20)
    choose = lambda piece: END if (piece.request.index, piece.stop) == (0, 2) else 7  # noqa: E731
    engine = LLMEngine(Scheduler(cache, SEQS, BUDGET), DeviceModel(cache, choose), async_scheduling=True)
    outputs = [RequestOutput(str(i), None, [1, 2], [CompletionOutput()], False, Metrics(2)) for i in range(2)]
    params = SamplingParams(max_tokens=5)
    for i, output in enumerate(outputs):
        engine.add_request(i, [1, 2], params, [Answer(i, output, params, SilentDecoder(), frozenset({END}))])
    events = [[event.index for event in engine.step()] for _ in range(5)]
    assert events == [[0, 1], [1], [1], [1], [1]]
    assert [output.outputs[0].token_ids for output in outputs] == [[END], [7] * 5]
    assert not engine.has_unfinished_requests and engine.cache.available == 20
