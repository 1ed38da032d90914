"""Trains a small World Action Model on demonstrations: autoencoder, latents, networks, report.

Each stage writes a file to `pretrain.output`, and does not run again if its file exists. Flow matching saves its state
every 500 steps. So the same call resumes after an interruption. A call with other settings is refused: beside each file
is a note of the settings that it depends on.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.fields import leaves, lies_in
from configs.pretraining import PretrainConfig
from configs.schema import Config
from configs.stored import DamagedFile, read_json, set_aside
from envs.files import replaced_atomically, write_text
from launch.diagnose import diagnose
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.progress import StageProgress
from launch.shell.stages import demonstration_settings, is_finished, resumable

READ_BY_AUTOENCODER = ("family", "vae", "head_size", "frames", "seed", "ema_decay", "start_from")
READ_BY_CLIPS = (*READ_BY_AUTOENCODER, "action_horizon", "clip_stride")
READ_BY_NO_PART = ("output", "stages", "torch_threads", "action.steps", "reference_updates")
FIXED = "'evaluation.schedules=[fixed-full,fixed-5,fixed-2,fixed-1]'"


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, "Train a small World Action Model on demonstrations.")
    with failures_are_messages(Path(config.pretrain.output)):
        Pretraining(config).run()
    return 0


class Pretraining:
    """Runs the stages in order. Each stage reads the file of the one before it."""

    def __init__(self, config: Config) -> None:
        import torch

        from envs.suites import kinematics_of
        from policies.backbones.arms import Arms
        from policies.backbones.stages import trainable

        torch.set_num_threads(config.pretrain.torch_threads)
        torch.manual_seed(config.pretrain.seed)
        self.whole = config
        self.config: PretrainConfig = config.pretrain
        self.demonstrations, self.env = config.demonstrations, config.env
        self.family = trainable(self.config.family)
        self.parts = self.family.parts(self.config)
        self.arms = Arms.measured(kinematics_of(self.env).tools) if self.family.needs_arms(self.config) else None
        self.folder = Path(self.config.output)
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def data(self) -> dict[str, dict[str, Any]]:
        """Return what tells demonstrations apart, by split: dotted keys and values."""
        return {split: demonstration_settings(self.whole, split) for split in ("train", "validation")}

    def run(self) -> None:
        """Run every stage that is not done yet."""
        start = self.family.begin(self.config, self.arms)
        codec = self._autoencoder(start.codec) if start.trains_codec else start.codec
        train, validation = (self._clips(codec, split) for split in ("train", "validation"))
        normalisation = start.normalisation or self.family.measure(train, self.arms)
        missing = [name for name in self.parts if not self._train_part(start.model, name, train, normalisation)]
        if missing:
            console.print(f"not trained yet: {', '.join(missing)}; pretrain.stages leaves them out")
            return
        self._finish(start.model, codec, normalisation, train, validation)

    def _finish(self, model: Any, codec: Any, normalisation: Any, train: Any, validation: Any) -> None:
        """Write the checkpoint, and measure the action error at each denoising depth: what schedules could learn."""
        from policies.backbones import describe
        from policies.backbones.stages import held_out_loss

        losses = {
            name: held_out_loss(part, model, validation, normalisation, self.config)
            for name, part in self.parts.items()
        }
        recipe = {
            "data": self.data["train"]["demonstrations"],
            "clips": len(train),
            "started_from": self._started_from(),
            "held_out_loss": losses,
            "curves": self._curves(),
        }
        checkpoint = self.folder / "checkpoint"
        self.family.save(checkpoint, model, codec, normalisation, self.config, recipe)
        console.print(f"checkpoint: {checkpoint}   held-out loss: {losses}")
        config = copy.deepcopy(self.whole)
        config.wam.backbone, config.wam.checkpoint = self.config.family, str(checkpoint)
        if describe(config.wam).video_reads_action:  # it cannot be walked as a cascade, so it has no such curve
            return
        diagnose(config, checkpoint)
        model = f"wam.backbone={self.config.family} wam.checkpoint={checkpoint}"
        console.print(f"next: python -m launch.evaluate configs/sants.yaml {model} {FIXED}", soft_wrap=True)

    def _started_from(self) -> dict[str, Any] | None:
        """Return hash and recipe of the checkpoint `start_from`, or None if there is none."""
        from policies.backbones.checkpoint_files import (
            holds_small_backbone,
            read_recipe,
            resolve_checkpoint,
            weights_hash,
        )
        from policies.backbones.published.files import open_checkpoint

        if not self.config.start_from:
            return None
        if not holds_small_backbone(self.config.start_from):
            return {"weights_hash": open_checkpoint(Path(self.config.start_from)).fingerprint(), "recipe": {}}
        folder = resolve_checkpoint(self.config.start_from)
        return {"weights_hash": weights_hash(folder), "recipe": read_recipe(folder)}

    def _settings(self, data: dict[str, Any], chosen: Callable[[str], bool]) -> dict[str, Any]:
        """Return what a stage depends on, by key: its demonstrations, and the chosen keys of `pretrain`."""
        return data | {f"pretrain.{key}": value for key, value in leaves(self.config) if chosen(key)}

    def _autoencoder(self, start: Any) -> Any:
        """Return the trained autoencoder. It is trained and written, unless its file exists."""
        from policies.backbones.checkpoint_files import VAE_FILE
        from policies.backbones.weights import load_vae, save_vae

        settings = self._settings(self.data["train"], lambda key: lies_in(key, READ_BY_AUTOENCODER))
        if not is_finished(self.folder / VAE_FILE, settings | self.family.encoded_with(self.config)):
            episodes = self._episodes("train", self.config.vae.episodes_per_task)
            with StageProgress("autoencoder", self.config.vae.steps) as progress:
                curve, codec = self.family.train_codec(start, episodes, self.config, progress.advance)
            self._write_curve("autoencoder", curve)
            with tempfile.TemporaryDirectory(dir=self.folder) as aside:  # a file that exists is a finished stage
                save_vae(Path(aside), codec)
                os.replace(Path(aside) / VAE_FILE, self.folder / VAE_FILE)
        return load_vae(self.folder, self.config)

    def _clips(self, codec: Any, split: str) -> Any:
        """Return the encoded clips of a split. The first call encodes them, and so does one that finds them damaged."""
        from policies.backbones.clips import Clips, encode_episodes

        path = self.folder / f"clips_{split}.safetensors"
        settings = self._settings(self.data[split], lambda key: lies_in(key, READ_BY_CLIPS))
        if is_finished(path, settings | self.family.encoded_with(self.config)):
            try:
                return Clips.load(path)
            except DamagedFile as damaged:
                set_aside(damaged)
        episodes = self._episodes(split)
        with StageProgress(f"latents of the {split} split", len(episodes)) as progress:
            clips = encode_episodes(
                self.family.encode(codec, self.config),
                episodes,
                self.config.frames,
                self.config.action_horizon,
                self.config.clip_stride,
                progress.advance,
            )
        with replaced_atomically(path) as temporary:
            clips.save(temporary)
        return clips

    def _train_part(self, model: Any, name: str, clips: Any, normalisation: Any) -> bool:
        """Load a part that is already trained, or train it if `stages` names it. Return whether the model has it."""
        from safetensors.torch import save_file

        from policies.backbones.stages import load_part, train_part

        path, part, trains = self.folder / f"{name}.safetensors", self.parts[name], name in self.config.stages
        if not (trains or path.exists()):
            return bool(self.config.start_from)  # the part then keeps the weights of that checkpoint
        ignored = (*READ_BY_NO_PART, *part.ignores)
        settings = self._settings(self.data["train"], lambda key: not lies_in(key, ignored))
        if is_finished(path, settings):
            try:
                load_part(part, model, path)
            except DamagedFile as damaged:
                if not trains:
                    raise
                set_aside(damaged)
            else:
                return True
        with resumable(path, settings, f"{name} flow matching", part.steps) as (progress, point):
            curve, tensors = train_part(part, model, clips, normalisation, self.config, progress, point)
        self._write_curve(name, curve)
        with replaced_atomically(path) as temporary:
            save_file(tensors, temporary)
        point.remove()
        return True

    def _episodes(self, split: str, at_most: int = 0) -> list[Any]:
        """Read the first `at_most` episodes of each task and mode; 0 means all of them."""
        from envs.demonstrations import read_episode
        from policies.backbones.robot import ACTION_DIM
        from policies.backbones.stages import Recording

        episodes, depth = [], self.family.needs_depth(self.config)
        for reference in self._references(split, at_most):
            episode = read_episode(reference, depth=depth)
            if depth and not episode.depths:
                raise ValueError(f"{reference.path} holds no depth: collect demonstrations with env.depth=true")
            if (size := episode.joints.shape[1]) != ACTION_DIM:
                raise ValueError(
                    f"{reference.path} has {size} joints and grippers, the small backbones have {ACTION_DIM}: "
                    "pretrain on demonstrations of a robot with two arms of 6 joints"
                )
            recording = Recording(episode.images, episode.depths, episode.joints, episode.instruction, reference.task)
            episodes.append(self.family.record(self.config, recording))
        return episodes

    def _references(self, split: str, at_most: int = 0) -> list[Any]:
        from envs.demonstrations import configured_episodes

        listed = configured_episodes(self.demonstrations, self.env.tasks, split)
        of_kind = itertools.groupby(listed, key=lambda reference: (reference.task, reference.mode))
        return [reference for _, group in of_kind for reference in itertools.islice(group, at_most or None)]

    def _write_curve(self, name: str, curve: Any) -> None:
        write_text(self.folder / f"curve_{name}.json", json.dumps(dataclasses.asdict(curve)) + "\n")

    def _curves(self) -> dict[str, Any]:
        """Read the loss curves of the stages, by stage. Nothing else depends on them, so a damaged one is left out."""
        from policies.backbones.optimisation import Curve

        curves: dict[str, Any] = {}
        for path in sorted(self.folder.glob("curve_*.json")):
            try:
                curve = read_json(path, Curve, "The checkpoint is written without this curve.")
            except DamagedFile as damaged:
                set_aside(damaged)
            else:
                curves[path.stem.removeprefix("curve_")] = dataclasses.asdict(curve)
        return curves


if __name__ == "__main__":
    sys.exit(main())
