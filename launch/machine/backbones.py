"""Which published backbones are here, where the others come from, and what the memory allows. Nothing is downloaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from configs.schema import WAMConfig
from envs.findings import Finding, Status
from policies.backbones.published.layout import LAYOUTS, Layout, Source, wanted_tensors
from policies.backbones.published.sources import AUTOENCODER, TEXT_ENCODER, download_command
from policies.backbones.published.texts import TextEmbeddings, TextForm
from policies.backbones.weights import device_named
from policies.memory import GIB, device_memory

WEIGHTS = Path("data/backbones")
"""The folder in which the doctor looks for a backbone that is not the configured one, by its key."""

ENCODER_FOLDER = WEIGHTS / "wan2.2"
BYTES_OF_A_NUMBER = 2  # in bfloat16


def examine_backbones(wam: WAMConfig) -> list[Finding]:
    """Return a finding for the memory, for every published backbone, and for the text encoder."""
    device = torch.device(device_named(wam.device))
    free = device_memory(device)
    where = "this machine (or its control group)" if device.type == "cpu" else str(device)
    memory = Finding("memory", Status.ok, f"{free / GIB:.1f} GiB are free on {where}")
    layouts = LAYOUTS.all().values()
    return [memory, *(probe_layout(layout, wam, free) for layout in layouts), probe_text_encoder()]


def probe_layout(layout: Layout, wam: WAMConfig, free: int) -> Finding:
    """Tell where a backbone comes from, whether it is here and fits, and whether so many free bytes suffice."""
    chosen = wam.backbone == layout.key
    folder = Path(wam.checkpoint) if chosen else WEIGHTS / layout.key
    needed = BYTES_OF_A_NUMBER * _numbers(layout)
    described = f"{layout.title}. {_described(layout.source)}. In bfloat16 it takes {needed / GIB:.1f} GiB"
    if needed > free:
        described += ", more than is free"
    if not folder.exists():
        fix = download_command(layout.source, folder)
        if layout.acts and layout.source.hub:
            fix += f" && {download_command(AUTOENCODER, folder)}"
        return Finding(
            layout.key, Status.missing if chosen else Status.note, f"{described}. It is not in {folder}", fix
        )
    try:
        found, lacking = _looked_at(layout, replace(wam, backbone=layout.key, checkpoint=str(folder)))
    except ValueError as error:
        fix = download_command(layout.source, folder)
        return Finding(layout.key, Status.missing if chosen else Status.note, f"{described}. {error}", fix)
    status = Status.note if lacking or needed > free else Status.ok
    return Finding(layout.key, status, f"{described}. {found}", lacking)


def probe_text_encoder(folder: Path = ENCODER_FOLDER) -> Finding:
    """Tell whether the text encoder is here, which only `launch.embed` needs."""
    described = f"for `launch.embed` alone. {_described(TEXT_ENCODER)}"
    if (folder / "text_encoder").is_dir() and (folder / "tokenizer").is_dir():
        return Finding("text encoder", Status.ok, f"{described}. It is in {folder}")
    fix = download_command(TEXT_ENCODER, folder)
    return Finding("text encoder", Status.note, f"{described}. It is not in {folder}", fix)


def _looked_at(layout: Layout, wam: WAMConfig) -> tuple[str, str]:
    """Return what is in a backbone's folder, and the command for what is not. Raises ValueError if it does not fit."""
    from policies.backbones.published.loading import Found  # it imports diffusers, which takes seconds
    from policies.backbones.published.pictures import Autoencoder

    found = Found.of(wam)
    if not layout.acts:
        return f"{found.checkpoint.path} fits. It gives no actions, and starts Stage 1 (pretrain.start_from)", ""
    found.normalisation(wam)
    here = f"{found.checkpoint.path} fits, with statistics in {found.statistics(wam).name}"
    form = TextForm.of(layout, found.size)
    path = form.path_in(Path(wam.embeddings))
    embedded = len(TextEmbeddings(path, form).instructions) if path.is_file() else 0
    here += f" and {embedded} embedded instructions"
    try:
        Autoencoder.of(found.vae(wam), found.size.channels)
    except ValueError as error:
        return f"{here}. {error}", download_command(AUTOENCODER, Path(wam.checkpoint))
    if not embedded:
        return here, f"python -m launch.embed <recipe> wam.backbone={layout.key} wam.checkpoint={wam.checkpoint}"
    return here, ""


def _described(source: Source) -> str:
    if not source.hub:
        return "No weights are published"
    return f"From {source.hub}, {source.gigabytes:g} GB, licence: {source.licence}"


def _numbers(layout: Layout) -> int:
    """Return how many numbers the weights of a layout are at full size."""
    wanted = wanted_tensors(layout, layout.sizes["full"])
    return sum(torch.Size(shape).numel() for shape in wanted.values())
