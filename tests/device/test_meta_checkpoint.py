"""Meta's own folder on the device: the same logits, bit for bit, as the same weights in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bindings.device import Device
from engine import LLM, SamplingParams
from tests.tiny_meta import torch_fixture, write_hf_folder, write_meta_folder

PROMPT = [(37 * i) % 520 for i in range(83)]  # beyond one tile of queries


def test_logits_equal_those_of_the_hugging_face_layout(tmp_path: Path, device: Device) -> None:
    meta = write_meta_folder(tmp_path / "meta")
    (meta / "consolidated.00.pth").write_bytes(torch_fixture())
    hf = write_hf_folder(tmp_path / "hf")
    limits = {"device": device.kind, "max_model_len": 128, "max_num_seqs": 1}
    with LLM(model=str(meta), **limits) as ours, LLM(model=str(hf), **limits) as theirs:
        assert np.array_equal(ours.score(PROMPT, decode_from=80), theirs.score(PROMPT, decode_from=80))
        assert np.ptp(ours.score(PROMPT)) > 1, "logits that are all alike would compare nothing"

        output = ours.chat([{"role": "user", "content": "hello"}], SamplingParams(temperature=0, max_tokens=3))[0]
        assert output.prompt_token_ids[:7] == [264, 270, *b"user", 271]  # BOS and the header, a token a byte
        assert ours._stop_ids == {265, 272, 273}
