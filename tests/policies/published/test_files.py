"""Checkpoints of every kind are read by their headers, and damaged ones are named."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.stored import DamagedFile
from policies.backbones.published.files import open_checkpoint

TENSORS = {
    "blocks.0.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "blocks.1.weight": torch.arange(4, dtype=torch.float32),
    "head.bias": torch.ones(1, dtype=torch.float16),
}


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in TENSORS.items()}


def one_file(folder: Path) -> Path:
    save_file(TENSORS, folder / "model.safetensors")
    return folder / "model.safetensors"


def shards(folder: Path) -> Path:
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items()):
        shard = f"model-{number}.safetensors"
        save_file({name: tensor}, folder / shard)
        weight_map[name] = shard
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 30}, "weight_map": weight_map}))
    return index


def pipeline(folder: Path) -> Path:
    (folder / "transformer").mkdir()
    return one_file(folder / "transformer")


def torch_file(content: Any, name: str = "model.pt") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / name)
        return folder / name

    return write


DEEPSPEED = "checkpoints/last.ckpt/checkpoint/mp_rank_00_model_states.pt"
KINDS = {
    "one file": one_file,
    "shards": shards,
    "diffusers": pipeline,
    "torch": torch_file(TENSORS, "model.pth"),
    "data parallel": torch_file(prefixed("module.")),
    "compiled": torch_file({name.replace("0.", "0._orig_mod."): tensor for name, tensor in TENSORS.items()}),
    "lightning": torch_file({"state_dict": prefixed("model._orig_mod."), "epoch": 3, "loops": {}}, "last.ckpt"),
    "deepspeed": torch_file({"module": prefixed("model."), "optimizer": None, "dp_world_size": 8}, DEEPSPEED),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_headers_and_tensors_of_every_kind(kind: str, tmp_path: Path) -> None:
    file = KINDS[kind](tmp_path)
    for path in (file, tmp_path):
        checkpoint = open_checkpoint(path)
        assert checkpoint.path == file
        assert checkpoint.nbytes == 2 * 6 + 4 * 4 + 2
        assert checkpoint.headers.keys() == TENSORS.keys()
        for name, header in checkpoint.headers.items():
            assert (header.shape, header.dtype) == (TENSORS[name].shape, TENSORS[name].dtype)
            assert header.is_meta
        for name, tensor in TENSORS.items():
            assert torch.equal(checkpoint.tensor(name), tensor)


def test_names_below_several_dictionaries_are_joined(tmp_path: Path) -> None:
    content = {
        "mot": {"mixtures.video.weight": torch.ones(2)},
        "proprio_encoder": {"weight": torch.zeros(3)},
        "step": 50_000,
        "torch_dtype": torch.bfloat16,
    }
    checkpoint = open_checkpoint(torch_file(content)(tmp_path))
    assert set(checkpoint.headers) == {"mot.mixtures.video.weight", "proprio_encoder.weight"}


def test_a_wrapper_of_some_names_only_stays(tmp_path: Path) -> None:
    content = {"module": {"model.weight": torch.ones(2), "vae.weight": torch.ones(3)}}
    assert set(open_checkpoint(torch_file(content)(tmp_path)).headers) == {"model.weight", "vae.weight"}


@pytest.mark.parametrize("kind", ["one file", "torch"])
def test_opening_does_not_read_the_tensors(kind: str, tmp_path: Path) -> None:
    """A sparse file of 8 GiB is opened, which would take as much memory if it were read."""
    size = 2**31
    if kind == "one file":
        path = tmp_path / "large.safetensors"
        header = json.dumps({"weight": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(path, 8 + len(header) + 4 * size)
    else:
        path = torch_file({"weight": torch.zeros(2).expand(size // 2, 2)})(tmp_path)
    assert open_checkpoint(path).headers["weight"].numel() == size


def half_of(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        path = write(folder)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return cut


def text(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def without_a_shard(folder: Path) -> Path:
    index = shards(folder)
    (folder / "model-1.safetensors").unlink()
    return index


def index_of_more(folder: Path) -> Path:
    index = shards(folder)
    content = json.loads(index.read_text())
    content["weight_map"]["blocks.2.weight"] = "model-0.safetensors"
    index.write_text(json.dumps(content))
    return index


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
DAMAGED = {
    "half a safetensors file": (half_of(one_file), "truncated or no safetensors file"),
    "half a torch file": (half_of(torch_file(TENSORS)), "truncated, or no file of torch.save"),
    "an LFS pointer": (text("model.safetensors", POINTER), "Git LFS pointer.*git lfs pull"),
    "an empty file": (text("model.pt", ""), "it is empty"),
    "words": (text("model.pt", "not found"), "no file of torch.save"),
    "a pickle with code": (torch_file({"weight": torch.ones(1), "settings": Namespace(lr=1)}), "argparse.Namespace"),
    "no tensors": (torch_file({"step": 3}), "no tensors by name"),
    "a missing shard": (without_a_shard, "missing: model-1.safetensors"),
    "an index of other shards": (index_of_more, "lack 1 of its tensors, such as blocks.2.weight"),
    "an index of nothing": (text("a.safetensors.index.json", '{"weight_map": {}}'), "names no tensors"),
    "an index of another form": (text("a.safetensors.index.json", "{}"), "weight_map is missing"),
    "both wrapped and not": (
        torch_file({"a.weight": torch.ones(1), "_orig_mod.a.weight": torch.ones(1)}), "with and without a wrapper"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_named_with_the_fix(kind: str, tmp_path: Path) -> None:
    write, reason = DAMAGED[kind]
    path = write(tmp_path)
    with pytest.raises(DamagedFile, match=reason) as caught:
        open_checkpoint(path)
    assert tmp_path.as_posix() in str(caught.value)


def test_a_folder_must_hold_exactly_one_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no checkpoint is there"):
        open_checkpoint(tmp_path)
    torch_file(TENSORS, "step_1.pt")(tmp_path)
    torch_file(TENSORS, "step_2.pt")(tmp_path)
    with pytest.raises(ValueError, match=r"2 checkpoints are there \(step_1.pt, step_2.pt\)"):
        open_checkpoint(tmp_path)


def test_several_model_parallel_ranks_are_refused(tmp_path: Path) -> None:
    for rank in ("00", "01"):
        torch_file({"module": TENSORS}, f"mp_rank_{rank}_model_states.pt")(tmp_path)
    with pytest.raises(ValueError, match="2 model-parallel ranks"):
        open_checkpoint(tmp_path)
