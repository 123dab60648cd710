"""Models that can't be used, through the command: one clear line that names the file, exit code 1, no answer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bindings.device import Device
from engine.gguf_header import GgufHeader
from engine.tokenizer import tokenizer_from_gguf
from tests.raw_gguf import join_gguf, tensor
from tests.tiny_model import write_folder, write_json
from tests.tiny_tokenizer import byte_level_metadata
from tools import generate

Damage = Callable[[Path], None]
WEIGHTS, CONFIG, TOKENIZER, SETTINGS = "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that answers; byte-level, of one layer."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    write_folder(folder, num_hidden_layers=1, vocab_size=288, tie_word_embeddings=True)
    tokenizer_from_gguf(GgufHeader(folder, byte_level_metadata(), {})).backend.save(str(folder / TOKENIZER))
    write_json(
        folder / SETTINGS, {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0].content }}"}
    )
    return folder


def run(model: Path, device: Device) -> int:
    return generate.main(["--device", device.kind, "--quiet", "--max-tokens", "2", "--model", str(model), "Hello"])


def test_the_whole_folder_answers(whole: Path, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(whole, device) == 0
    assert capsys.readouterr().err == ""


def cut(name: str, part: float) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * part)])

    return damage


def fill(name: str, content: bytes) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def change(name: str, **changes: Any) -> Damage:
    """Replace fields of a JSON file."""

    def damage(folder: Path) -> None:
        write_json(folder / name, {**json.loads((folder / name).read_text("utf-8")), **changes})

    return damage


def change_header(old: str, new: str) -> Damage:
    """Replace a piece of the header of the weights by one of equal length."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        assert len(old) == len(new) and content.count(old.encode()) == 1
        (folder / WEIGHTS).write_bytes(content.replace(old.encode(), new.encode()))

    return damage


def template(source: str) -> Damage:
    return change(SETTINGS, chat_template=source)


def become_a_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


NORM, UP, GATE = "model.norm.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "weights cut": (cut(WEIGHTS, 0.7), r"model\.safetensors: tensor \S+ ends at byte \d+ of \d+; the file is damaged"),
    "weights empty": (fill(WEIGHTS, b""), r"model\.safetensors: is empty; the file is damaged"),
    "weights a folder": (become_a_folder(WEIGHTS), r"has neither model\.safetensors nor model\.safetensors\.index"),
    "header too long": (fill(WEIGHTS, b"\xff" * 64), r"a header of 18446744073709551615 bytes in a file of 64"),
    "name twice": (
        change_header(f'"{GATE}"', f'"{UP}"  '),
        r"model\.safetensors: its header is not valid JSON .*up_proj.weight is in it twice",
    ),
    "tensor renamed": (
        change_header("model.norm", "model.form"),
        r"lacks tensor model\.norm\.weight \[64\]; fetch the",
    ),
    "dtype": (
        change_header(f'"{NORM}": {{"dtype": "BF16"', f'"{NORM}": {{"dtype": "I128"'),
        r"norm\.weight is stored as I128; only",
    ),
    "a layer too many": (
        change(CONFIG, num_hidden_layers=2),
        r"lacks tensor model\.layers\.1\.input_layernorm\.weight",
    ),
    "shape": (
        change(CONFIG, intermediate_size=64),
        r"gate_proj\.weight has shape \[32, 64\]; the model's configuration",
    ),
    "architecture": (
        change(CONFIG, architectures=["GemmaForCausalLM"]),
        r"names GemmaForCausalLM; only LlamaForCausal",
    ),
    "rope type": (change(CONFIG, rope_scaling={"rope_type": "yarn"}), r'rope_scaling\.rope_type is "yarn"; only'),
    "config cut": (cut(CONFIG, 0.5), r"config\.json: is not valid JSON"),
    "config a list": (fill(CONFIG, b"[]"), r"config\.json: holds \[\]; expected a JSON object"),
    "billions of layers": (change(CONFIG, num_hidden_layers=10**10), r"10000000000 layers; at most 1024"),
    "tokenizer cut": (cut(TOKENIZER, 0.5), r"tokenizer\.json: not a tokenizer"),
    "tokenizer missing": (lambda folder: (folder / TOKENIZER).unlink(), r"tokenizer\.json: missing"),
    "template broken": (template("{% for %}"), r"the chat template does not parse"),
    "template without end": (template("{% for i in range(10**9) %}x{% endfor %}"), r"it takes more than \d+ steps"),
    "template in loops": (
        template("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"),
        r"it takes more than \d+ steps; does it end\?",
    ),
    "template reaching out": (template("{{ ''.__class__ }}"), r"it reaches for the attribute '__class__' of a str"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_line(
    whole: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    damage, message = DAMAGES[name]
    folder = Path(shutil.copytree(whole, tmp_path / "damaged"))
    damage(folder)
    assert_one_line(run(folder, device), capsys, str(folder), message)


GGUF_DAMAGES = {
    "empty": (b"", r"is empty"),
    "magic": (b"GGML" + bytes(60), r"not a GGUF file"),
    "version": (b"GGUF\x01\0\0\0" + bytes(60), r"GGUF version 1 is not supported"),
    "big-endian": (b"GGUF\0\0\0\x03" + bytes(60), r"a big-endian GGUF file"),
    "billions of tensors": (b"GGUF\x03\0\0\0" + b"\xff" * 16, r"truncated"),
    "five dimensions": (join_gguf([], [tensor("t", [1] * 5)]), r'tensor "t" has 5 dimensions'),
    "outside": (join_gguf([], [tensor("t", [8], offset=2**40)]), r"tensor t ends at byte \d+ of \d+"),
    "type": (
        join_gguf([], [tensor("t", [8], ggml_type=24)], bytes(64)),
        r"ggml type 24 \(I8\), which is not supported",
    ),
}


@pytest.mark.parametrize("name", GGUF_DAMAGES)
def test_a_damaged_gguf_is_one_line(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content, message = GGUF_DAMAGES[name]
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    assert_one_line(run(path, device), capsys, str(path), message)


def assert_one_line(code: int, capsys: pytest.CaptureFixture[str], path: str, message: str) -> None:
    stdout, stderr = capsys.readouterr()
    assert (code, stdout) == (1, "")
    assert stderr.startswith("cutaway generate: error: ") and stderr.count("\n") == 1 and len(stderr) < 2000
    assert path in stderr
    assert re.search(message, stderr), stderr
