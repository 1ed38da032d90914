"""Trains the tiny World Action Model on demonstrations: autoencoder, latents, video expert, action branch, report.

Each stage writes a file to `pretrain.output`, and does not run again if its file exists. Flow matching saves its state
every 500 steps. So the same call resumes after an interruption.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.pretraining import PretrainConfig
from configs.schema import Config
from configs.stored import DamagedFile, read_json, set_aside
from envs.files import replaced_atomically, write_json, write_text
from launch.diagnose import diagnose
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.interrupts import StopRequest
from launch.shell.progress import StageProgress

PARTS = ("video", "action")
FIXED = "'evaluation.schedules=[fixed-full,fixed-5,fixed-2,fixed-1]'"


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, "Train the tiny World Action Model on demonstrations.")
    with failures_are_messages(Path(config.pretrain.output)):
        Pretraining(config).run()
    return 0


class Pretraining:
    """Runs the stages in order. Each stage reads the file of the one before it."""

    def __init__(self, config: Config) -> None:
        import torch

        torch.set_num_threads(config.pretrain.torch_threads)
        torch.manual_seed(config.pretrain.seed)
        self.whole = config
        self.config: PretrainConfig = config.pretrain
        self.demonstrations, self.env = config.demonstrations, config.env
        self.folder = Path(self.config.output)
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run every stage that is not done yet."""
        from policies.backbones.tiny.training import action_statistics

        model, codec, statistics = self._begin()
        train, validation = (self._clips(codec, split) for split in ("train", "validation"))
        statistics = statistics or action_statistics(train)
        missing = [part for part in PARTS if not self._train_part(model, part, train, statistics)]
        if missing:
            console.print(f"not trained yet: {', '.join(missing)}; pretrain.stages leaves them out")
            return
        self._finish(model, codec, statistics, train, validation)

    def _begin(self) -> tuple[Any, Any, Any]:
        """Return model, codec and normalisation of `start_from`, or an untrained model, a new codec and None."""
        from policies.backbones.tiny.checkpoint import load_start
        from policies.backbones.tiny.model import WorldActionModel
        from policies.backbones.weights import load_vae

        if self.config.start_from:
            return load_start(self.config)
        self._autoencoder()
        return WorldActionModel(self.config), load_vae(self.folder, self.config), None

    def _finish(self, model: Any, codec: Any, statistics: Any, train: Any, validation: Any) -> None:
        """Write the checkpoint, and measure the action error at each denoising depth: what schedules could learn."""
        from policies.backbones.tiny.checkpoint import save_wam
        from policies.backbones.tiny.training import LOSSES, held_out_loss

        losses = {part: held_out_loss(model, validation, statistics, self.config, LOSSES[part]) for part in PARTS}
        recipe = {
            "data": self._data_hash(),
            "clips": len(train),
            "started_from": self._started_from(),
            "held_out_loss": losses,
            "curves": self._curves(),
        }
        checkpoint = self.folder / "checkpoint"
        save_wam(checkpoint, model, codec, statistics, self.config, recipe)
        console.print(f"checkpoint: {checkpoint}   held-out loss: {losses}")
        config = copy.deepcopy(self.whole)
        config.wam.checkpoint = str(checkpoint)
        diagnose(config, checkpoint)
        compare = f"python -m launch.evaluate configs/sants.yaml wam.checkpoint={checkpoint} {FIXED}"
        console.print(f"next: {compare}", soft_wrap=True)

    def _started_from(self) -> dict[str, Any] | None:
        """Return hash and recipe of the checkpoint `start_from`, or None if there is none."""
        from policies.backbones.checkpoint_files import read_recipe, resolve_checkpoint, weights_hash

        if not self.config.start_from:
            return None
        folder = resolve_checkpoint(self.config.start_from)
        return {"weights_hash": weights_hash(folder), "recipe": read_recipe(folder)}

    def _autoencoder(self) -> None:
        """Train the autoencoder and write it, unless its file exists."""
        from policies.backbones.checkpoint_files import VAE_FILE
        from policies.backbones.codecs import build_vae
        from policies.backbones.tiny.training import latent_statistics, train_vae
        from policies.backbones.weights import save_vae

        if (self.folder / VAE_FILE).exists():
            return
        episodes = self._episodes("train", self.config.vae.episodes_per_task)
        vae = build_vae(self.config.vae)
        with StageProgress("autoencoder", self.config.vae.steps) as progress:
            curve = train_vae(vae, episodes, self.config, progress.advance)
        self._write_curve("autoencoder", curve)
        statistics = latent_statistics(vae, episodes, self.config)
        with tempfile.TemporaryDirectory(dir=self.folder) as aside:  # a file that exists is taken as a finished stage
            save_vae(Path(aside), statistics)
            os.replace(Path(aside) / VAE_FILE, self.folder / VAE_FILE)

    def _clips(self, codec: Any, split: str) -> Any:
        """Return the encoded clips of a split. The first call encodes them, and so does one that finds them damaged.

        Raises `DamagedFile` if they were encoded from demonstrations that were chosen or read in another way.
        """
        from policies.backbones.tiny.clips import Clips, encode_episodes

        path, source = (self.folder / f"clips_{split}.{ending}" for ending in ("safetensors", "json"))
        read = self.demonstrations
        settings: dict[str, Any] = {"env.tasks": self.env.tasks, "demonstrations.modes": read.modes}
        settings |= {"demonstrations.joints": read.joints, "demonstrations.gripper_range": read.gripper_range}
        fix = "Choose another pretrain.output, or delete this one."
        if path.exists() and source.exists() and (then := read_json(source, dict[str, Any], fix)) != settings:
            raise DamagedFile(path, f"it was made with {then}, not {settings}", fix)
        if path.exists():
            try:
                return Clips.load(path)
            except DamagedFile as damaged:
                set_aside(damaged)
        write_json(source, settings)
        episodes = self._episodes(split)
        with StageProgress(f"latents of the {split} split", len(episodes)) as progress:
            clips = encode_episodes(
                codec,
                episodes,
                self.config.frames,
                self.config.action_horizon,
                self.config.clip_stride,
                progress.advance,
            )
        with replaced_atomically(path) as temporary:
            clips.save(temporary)
        return clips

    def _train_part(self, model: Any, part: str, clips: Any, statistics: Any) -> bool:
        """Load a part that is already trained, or train it if `stages` names it. Return whether the model has it."""
        from safetensors.torch import save_file

        from policies.backbones.resuming import ResumePoint
        from policies.backbones.tiny.training import load_part, train_part

        path = self.folder / f"{part}.safetensors"
        if path.exists():
            try:
                load_part(part, model, path)
            except DamagedFile as damaged:
                if part not in self.config.stages:
                    raise
                set_aside(damaged)
            else:
                return True
        if part not in self.config.stages:
            return bool(self.config.start_from)  # the part then keeps the weights of that checkpoint
        steps = {"video": self.config.video_steps, "action": self.config.action_steps}[part]
        settings = dataclasses.asdict(self.config)
        for name in ("output", "stages", "torch_threads"):  # the weights do not depend on these
            del settings[name]
        with StopRequest(short_steps=True) as stop, StageProgress(f"{part} flow matching", steps) as progress:
            point = ResumePoint(self.folder / f"{part}.partial.safetensors", settings, lambda: stop.requested)
            curve, tensors = train_part(part, model, clips, statistics, self.config, steps, progress.advance, point)
        self._write_curve(part, curve)
        with replaced_atomically(path) as temporary:
            save_file(tensors, temporary)
        point.remove()
        return True

    def _episodes(self, split: str, at_most: int = 0) -> list[Any]:
        """Read the first `at_most` episodes of each task and mode; 0 means all of them."""
        from envs.demonstrations import read_episode
        from policies.backbones.codecs import compose_canvas
        from policies.backbones.tiny.clips import EpisodeFrames
        from policies.backbones.tiny.model import ACTION_DIM

        episodes = []
        for reference in self._references(split, at_most):
            episode = read_episode(reference)
            if (size := episode.joints.shape[1]) != ACTION_DIM:
                raise ValueError(
                    f"{reference.path} has {size} joints and grippers, the tiny backbone has {ACTION_DIM}: "
                    "pretrain on demonstrations of a robot with two arms of 6 joints"
                )
            head, left, right = (episode.images[name] for name in ("head", "left_wrist", "right_wrist"))
            canvas = compose_canvas(head, left, right, self.config.head_size)
            episodes.append(EpisodeFrames(canvas, episode.joints, episode.instruction, reference.task))
        return episodes

    def _references(self, split: str, at_most: int = 0) -> list[Any]:
        from envs.demonstrations import configured_episodes

        listed = configured_episodes(self.demonstrations, self.env.tasks, split)
        of_kind = itertools.groupby(listed, key=lambda reference: (reference.task, reference.mode))
        return [reference for _, group in of_kind for reference in itertools.islice(group, at_most or None)]

    def _data_hash(self) -> str:
        from envs.demonstrations import dataset_hash

        return dataset_hash(self._references("train"))

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
