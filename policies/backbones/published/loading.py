"""A published model on disk: its weights, the statistics and the autoencoder beside them, and the features of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from configs.errors import WrongSetting
from configs.schema import WAMConfig
from policies.backbones.door import ValueSpec, WAMSpec
from policies.backbones.published.action_spaces import SPACES, finished_size
from policies.backbones.published.files import Checkpoint, open_checkpoint
from policies.backbones.published.filling import fill
from policies.backbones.published.fit import fit_of, require_layout
from policies.backbones.published.frozen import FrozenPublished
from policies.backbones.published.layout import LAYOUTS, Layout, Size, family_of
from policies.backbones.published.mixture import LONGEST
from policies.backbones.published.normalisation import Normalisation, read_normalisation, read_returns
from policies.backbones.published.pictures import Pictures
from policies.backbones.published.texts import TextEmbeddings, TextForm
from policies.backbones.published.wan_files import VAE_FILE
from policies.backbones.shapes import OBSERVED_FRAMES
from policies.backbones.weights import DTYPES, device_named
from policies.memory import require_memory

RETURNS, VAE = "value_normalization_stats.json", "vae"
IN_FLOAT32 = ("time_embedder", "scale_shift_table")  # whatever `wam.dtype` is: noise levels are read through them
WORKSPACE = 2**30  # bytes for the autoencoder's encoder and the activations of one query


@dataclass(frozen=True)
class Found:
    """A checkpoint that fits a layout."""

    layout: Layout
    size: Size
    checkpoint: Checkpoint
    folder: Path  # where the other files are looked for

    @classmethod
    def of(cls, config: WAMConfig) -> Found:
        """Open the checkpoint of a configuration by its headers.

        Raises ValueError, which names the file or the setting, if it is missing, damaged or does not fit the layout.
        """
        layout, path = LAYOUTS.get(config.backbone), Path(config.checkpoint)
        checkpoint = open_checkpoint(path)
        fitting = [name for name in layout.sizes if fit_of(layout, name, checkpoint).fits]
        if not fitting:
            require_layout(layout, "full", checkpoint)
        folder = path if path.is_dir() else path.parent
        return cls(layout, layout.sizes[fitting[0]], checkpoint.inside(layout.prefix), folder)

    def statistics(self, config: WAMConfig) -> Path:
        """Return the file of the normalisation. Raises ValueError if it is missing, or if there are several."""
        if config.statistics:
            return Path(config.statistics)
        name = self.layout.statistics
        folders = (self.folder, _home_of(self.checkpoint.path))
        found = sorted({path for folder in folders for path in folder.glob(name) if path.name != RETURNS})
        if len(found) != 1:
            raise ValueError(
                f"{self.folder}: {len(found)} files {name} are there. Without the statistics of its actions a "
                f"{self.layout.key} cannot move a robot: set wam.statistics to their file"
            )
        return found[0]

    def normalisation(self, config: WAMConfig) -> Normalisation:
        """Read the normalisation of actions, states and, if the model has values, returns. Raises ValueError."""
        layout = self.layout
        read = read_normalisation(self.statistics(config), layout.numbers)
        return (
            replace(read, returns=read_returns(self.folder / RETURNS, layout.value_dim)) if layout.value_dim else read
        )

    def _statistics_hash(self, config: WAMConfig) -> str:
        """Return a hash of the normalisation's files; "none" without one, which `lacking_beside` tells in its place."""
        try:
            returns = (self.folder / RETURNS).read_bytes() if self.layout.value_dim else b""
            return hashlib.sha256(self.statistics(config).read_bytes() + returns).hexdigest()
        except (ValueError, OSError):
            return "none"

    def vae(self, config: WAMConfig) -> Path:
        """Return the folder or the file of the autoencoder. Raises ValueError if there is none."""
        beside = self.folder / VAE_FILE
        path = Path(config.vae) if config.vae else beside if beside.is_file() else self.folder / VAE
        if not (path.is_file() or (path / "config.json").is_file()):
            raise ValueError(
                f"{path}: Wan's autoencoder is not there. Get the folder `vae` of Wan-AI/Wan2.2-TI2V-5B-Diffusers "
                f"(`python -m launch.doctor backbone` shows the command), or {VAE_FILE} of Wan-AI/Wan2.2-TI2V-5B, and "
                "set wam.vae to it"
            )
        return path

    def spec(self, config: WAMConfig) -> WAMSpec:
        """Describe the model. Its hash is that of its layout, of the fingerprint of its weights and of its statistics.

        Two layouts may read the same weights differently, and other statistics turn the same flow into other actions:
        what is bound to one must not be taken for the other.
        """
        layout, size, space = self.layout, self.size, SPACES[self.layout.numbers.space]
        identity = f"{layout.key} {self.checkpoint.fingerprint()} {self._statistics_hash(config)}"
        identity += f" {layout.history_chunks} chunks before" if layout.history_chunks else ""
        weights_hash = hashlib.sha256(identity.encode()).hexdigest()[:16]
        return WAMSpec(
            latent_channels=size.channels,
            latent_frames=size.frames,
            observed_frames=OBSERVED_FRAMES,
            latent_grid=size.grid,
            feature_dim=size.width,
            action_horizon=size.horizon,
            action_dim=finished_size(space, layout.numbers.action_dim),
            video_shift=layout.grids.video_shift,
            action_shift=layout.grids.action_shift,
            action_updates=layout.grids.action_updates,
            reference_updates=layout.grids.reference_updates,
            action_reads=layout.action_reads,
            video_reads_action=layout.video_reads_action,
            per_frame_sigma_trained=layout.per_frame_sigma_trained,
            weights_hash=weights_hash,
            gives=layout.gives,
            history_chunks=layout.history_chunks,
            history_stride=size.history_stride if layout.history_chunks else 0,
            value=value_spec(layout, size, weights_hash) if layout.value_dim else None,
            actions_are=space.described,
            acts_on=space.acts_on,
        )


def value_spec(layout: Layout, size: Size, weights_hash: str) -> ValueSpec:
    """Describe the value expert of a model whose video and action read the values."""
    values = size.horizon * layout.value_dim
    return ValueSpec(
        values, size.horizon, layout.lowest_return, weights_hash, weights_hash, layout.grids.action_updates
    )


def lacking_beside(found: Found, config: WAMConfig, instructions: Collection[str] = ()) -> list[str]:
    """Return an error text for everything beside a checkpoint that is missing or damaged.

    `instructions` are those that a run is known to meet, which must have features.
    """
    if not found.layout.acts:
        return []
    form = TextForm.of(found.layout, found.size)
    wanted = {*instructions, *found.layout.always_read}
    looks: tuple[Callable[[], object], ...] = (
        lambda: found.normalisation(config),
        lambda: found.vae(config),
        lambda: TextEmbeddings(form.path_in(Path(config.embeddings)), form).require(wanted),
    )
    texts: list[str] = []
    for look in looks:
        try:
            look()
        except ValueError as error:
            texts.append(str(error))
    return texts


def load_published(config: WAMConfig) -> FrozenPublished:
    """Load a published model, ready to walk. ValueError names what is missing, damaged, too large or does not fit."""
    found = Found.of(config)
    if not found.layout.acts:
        raise WrongSetting(
            "wam.backbone",
            config.backbone,
            f"{found.layout.title} gives no actions, so that nothing can be walked or played on it: choose a backbone "
            "that acts (docs/backbones.md)",
        )
    vae = found.vae(config)
    texts = TextForm.of(found.layout, found.size)
    embeddings = TextEmbeddings(texts.path_in(Path(config.embeddings)), texts)
    normalisation = found.normalisation(config)
    device, dtype = torch.device(device_named(config.device)), DTYPES[config.dtype]
    frozen: FrozenPublished = family_of(found.layout).FROZEN(
        load_networks(found, device, dtype),
        found.spec(config),
        Pictures(vae, found.size, device, dtype, found.layout.crop),
        embeddings,
        normalisation,
        SPACES[found.layout.numbers.space],
    )
    return frozen


def load_networks(found: Found, device: torch.device, dtype: torch.dtype) -> Any:
    """Load the networks that the family of the layout builds, tensor by tensor, without a second copy.

    Raises ValueError, before anything is read, if the memory does not suffice.
    """
    layout, size = found.layout, found.size
    with torch.device("meta"):
        model = family_of(layout).build(layout, size)
    needed = sum(part.numel() * dtype_of(name, dtype).itemsize for name, part in model.named_parameters())
    require_memory(needed + WORKSPACE, device, f"wam.backbone={layout.key}")
    # Its tables are buffers that no checkpoint holds.
    model.video.rope = WanRotaryPosEmbed(size.head_dim, (1, size.patch, size.patch), LONGEST).to(device)
    names = layout.checkpoint_names(list(model.state_dict()))
    fill(model, found.checkpoint, names, device, lambda name: dtype_of(name, dtype))
    return model


def _home_of(file: Path) -> Path:
    """Return the folder of a training, around the folders in which Lightning and DeepSpeed put its checkpoint."""
    folder = file.parent
    while folder.name in ("checkpoint", "checkpoints") or folder.suffix == ".ckpt":
        folder = folder.parent
    return folder


def dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which the parameter `name` of a mixture is held if `wam.dtype` is `dtype`."""
    return torch.float32 if any(part in name for part in IN_FLOAT32) else dtype
