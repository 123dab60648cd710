"""tools/generate.py around a fake engine: prompts in, text and figures out. tests/device has the real one."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bindings.errors import CutawayError
from engine.sampling_params import SamplingParams
from tools import generate

ANSWERS = {"sky": ["The sky", " is", " blue é."], "fruit": ["An", " apple."]}


class FakeLLM:
    """Answers from a table, one piece an event; a batch advances all its prompts by one piece a step."""

    def __init__(self) -> None:
        self.device = SimpleNamespace(kind="cpu", name="CPU device", arch="cpu")
        self.asked: dict[str, Any] = {}
        self.closed = False

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def stream(self, prompts: list[str], params: Any, chat: bool = False) -> Iterator[SimpleNamespace]:
        self.asked = {"prompts": prompts, "params": params, "chat": chat}
        pieces = [ANSWERS[prompt.split()[0]] for prompt in prompts]
        for step in range(max(map(len, pieces))):
            for index, mine in enumerate(pieces):
                if step < len(mine):
                    yield self.event(index, prompts[index], mine[: step + 1], step + 1 == len(mine))

    def event(self, index: int, prompt: str, pieces: list[str], finished: bool) -> SimpleNamespace:
        token_ids = list(range(len(pieces)))
        completion = SimpleNamespace(
            index=0, text="".join(pieces), token_ids=token_ids, finish_reason="stop" if finished else None
        )
        metrics = SimpleNamespace(
            prompt_tokens=10 + index,
            new_tokens=len(pieces),
            time_to_first_token=0.25 + index,
            tokens_per_second=12.5,
        )
        output = SimpleNamespace(
            prompt=prompt, prompt_token_ids=[7], outputs=[completion], finished=finished, metrics=metrics
        )
        return SimpleNamespace(index=index, text=pieces[-1], token_ids=token_ids[-1:], finished=finished, output=output)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    fake = FakeLLM()
    monkeypatch.setattr(generate, "load", lambda arguments, num_prompts: fake)
    return fake


def set_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes, terminal: bool = False) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_one_prompt_streams_and_ends_with_figures(llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["sky ?"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == "The sky is blue é.\n"
    assert stderr == ("CPU device: 10 prompt tokens, 3 new tokens, first token after 0.25 s, 12.5 tokens/s\n")
    assert llm.asked["chat"] is True and llm.closed


def test_raw_asks_for_no_template(llm: FakeLLM) -> None:
    assert generate.main(["--raw", "sky ?"]) == 0
    assert llm.asked["chat"] is False


def test_options_reach_the_engine(llm: FakeLLM) -> None:
    assert generate.main(["--max-tokens", "5", "--temperature", "0.5", "--seed", "9", "sky ?"]) == 0
    params = llm.asked["params"]
    assert (params.max_tokens, params.temperature, params.seed) == (5, 0.5, 9)


@pytest.mark.parametrize(
    ("option", "values", "field", "expected"),
    [
        ("--max-tokens", ["5"], "max_tokens", 5),
        ("--temperature", ["0.5"], "temperature", 0.5),
        ("--seed", ["9"], "seed", 9),
        ("--repetition-penalty", ["1.1"], "repetition_penalty", 1.1),
        ("--presence-penalty", ["-1"], "presence_penalty", -1.0),
        ("--frequency-penalty", ["0.5"], "frequency_penalty", 0.5),
        ("--min-tokens", ["3"], "min_tokens", 3),
        ("--stop", [".", "a b"], "stop", (".", "a b")),
        ("--bad-word", ["sky", "blue"], "bad_words", ("sky", "blue")),
        ("--ignore-eos", [], "ignore_eos", True),
    ],
)
def test_each_sampling_option_reaches_the_engine(
    llm: FakeLLM, option: str, values: list[str], field: str, expected: Any
) -> None:
    given = [word for value in values for word in (option, value)] or [option]
    assert generate.main([*given, "sky ?"]) == 0
    changed = SamplingParams(**{"temperature": 0.0, "max_tokens": 256, "seed": 0, field: expected})
    assert llm.asked["params"] == changed


@pytest.mark.parametrize(("option", "field"), [("--top-p", "top_p"), ("--top-k", "top_k"), ("--min-p", "min_p")])
def test_what_shapes_a_sample_reaches_the_engine_and_asks_for_a_temperature(
    llm: FakeLLM, capsys: pytest.CaptureFixture[str], option: str, field: str
) -> None:
    assert generate.main([option, "1", "--temperature", "0.5", "sky ?"]) == 0
    assert getattr(llm.asked["params"], field) == 1
    capsys.readouterr()
    assert generate.main([option, "2" if option == "--top-k" else "0.5", "sky ?"]) == 2
    line = f"{option} needs --temperature above 0: without it the likeliest token is taken"
    assert capsys.readouterr().err == f"cutaway generate: error: {line}\n"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--top-p", "0"], "top_p must be above 0 and at most 1, not 0.0"),
        (["--top-k", "-2"], "top_k must be a whole number, at least -1, not -2"),
        (["--stop", ""], "stop must be a text or several, none of them empty, not ('',)"),
        (["--min-tokens", "300"], "min_tokens must be at most max_tokens (256), not 300"),
        (["--top-k", "few"], "argument --top-k: invalid int value: 'few' (see --help)"),
    ],
)
def test_a_sampling_option_out_of_its_range_is_one_line(
    llm: FakeLLM, capsys: pytest.CaptureFixture[str], argv: list[str], line: str
) -> None:
    assert generate.main([*argv, "sky ?"]) == 2
    assert capsys.readouterr().err == f"cutaway generate: error: {line}\n" and not llm.asked


def test_batch_prints_each_answer_whole(llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["sky ?", "fruit " + "x" * 200]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == "=== 2. fruit ...\nAn apple.\n\n=== 1. sky ?\nThe sky is blue é.\n\n"
    assert stderr.startswith("CPU device: 21 prompt tokens, 5 new tokens, first token after 1.25 s, ")


def test_quiet_leaves_stderr_empty(llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--quiet", "sky ?"]) == 0
    assert capsys.readouterr() == ("The sky is blue é.\n", "")


def test_json_is_one_object_with_the_outputs_in_order(llm: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--json", "--model", "/models/fake", "sky ?", "fruit ?"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == "/models/fake"
    assert answer["device"] == {"kind": "cpu", "name": "CPU device", "arch": "cpu"}
    assert [output["text"] for output in answer["outputs"]] == ["The sky is blue é.", "An apple."]
    assert answer["outputs"][1] == {
        "prompt": "fruit ?",
        "prompt_token_ids": [7],
        "text": "An apple.",
        "token_ids": [0, 1],
        "finish_reason": "stop",
        "metrics": {
            "prompt_tokens": 11,
            "new_tokens": 2,
            "time_to_first_token": 1.25,
            "tokens_per_second": 12.5,
        },
    }


@pytest.mark.parametrize("argv", [[], ["-"]])
def test_prompt_from_stdin(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    set_stdin(monkeypatch, "sky über\nuns\r\n".encode())
    assert generate.main(argv) == 0
    assert llm.asked["prompts"] == ["sky über\nuns"]


def test_stdin_beside_a_prompt(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    set_stdin(monkeypatch, b"sky\n")
    assert generate.main(["fruit", "-"]) == 0
    assert llm.asked["prompts"] == ["fruit", "sky"]


@pytest.mark.parametrize(
    ("argv", "stdin", "line"),
    [
        ([], b"", "standard input is empty: give a prompt, or pipe one in"),
        ([], b"abc\xff", "standard input is not UTF-8 text (first bad byte at 3)"),
        (["-", "-"], b"abc", "standard input can be read once, but - is given more than once"),
        ([""], b"", "prompt 1 is empty"),
        (["sky", "\udcff"], b"", "prompt 2 is not UTF-8 text"),
    ],
)
def test_prompt_that_is_none(
    llm: FakeLLM,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    stdin: bytes,
    line: str,
) -> None:
    set_stdin(monkeypatch, stdin)
    assert generate.main(argv) == 2
    assert capsys.readouterr() == ("", f"cutaway generate: error: {line}\n")
    assert llm.asked == {}


def test_no_prompt_on_a_terminal(
    llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_stdin(monkeypatch, b"", terminal=True)
    assert generate.main([]) == 2
    assert capsys.readouterr().err.startswith("cutaway generate: error: no prompt: give one, as in ")


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--max-tokens", "0", "max_tokens"),
        ("--max-tokens", "-3", "max_tokens"),
        ("--temperature", "-0.1", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--temperature", "inf", "temperature"),
        ("--seed", "-2", "seed"),
        ("--seed", str(2**64), "seed"),
    ],
)
def test_value_out_of_range(
    llm: FakeLLM, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    assert generate.main([option, value, "sky ?"]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.count("\n") == 1
    assert stderr.startswith("cutaway generate: error: ") and named in stderr
    assert llm.asked == {}


@pytest.mark.parametrize("model", [[], ["--model", "/none"], ["--model", "."]])
def test_revision_is_for_the_hub(capsys: pytest.CaptureFixture[str], model: list[str]) -> None:
    assert generate.main([*model, "--revision", "v2", "sky ?"]) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.count("\n") == 1
    assert stderr.startswith(
        "cutaway generate: error: --revision is for a model on the hub, as in --model owner/name; "
    )


def test_error_in_the_engine_closes_it(
    llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stream(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        raise CutawayError("the prompt has 3000 tokens, the model holds 2048")
        yield

    monkeypatch.setattr(llm, "stream", stream)
    assert generate.main(["sky ?"]) == 1
    assert capsys.readouterr().err.endswith("error: the prompt has 3000 tokens, the model holds 2048\n")
    assert llm.closed


def test_missing_gpu_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = SimpleNamespace(kind="cpu", why="no NVIDIA driver found")
    monkeypatch.setattr("bindings.backend.select", lambda kind: chosen)
    arguments = generate.make_parser().parse_args(["sky ?"])
    assert generate.choose_device(arguments) == "cpu"
    assert capsys.readouterr() == ("", "no NVIDIA driver found: running on the CPU device\n")


def test_chosen_cpu_device_needs_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("bindings.backend.select", lambda kind: SimpleNamespace(kind=kind, why=""))
    arguments = generate.make_parser().parse_args(["--device", "cpu", "sky ?"])
    assert generate.choose_device(arguments) == "cpu"
    assert capsys.readouterr() == ("", "")
