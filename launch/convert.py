"""Converts demonstrations to LeRobot v3.0: `python -m launch.convert [configs/<recipe>.yaml] [key=value ...]`.

It writes all episodes of env.tasks and demonstrations.modes in demonstrations.root, in any known format, to
convert.output. The dataset appears when it is complete; an interrupted call leaves nothing behind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from configs.schema import Config
from launch.shell.cli import load_config
from launch.shell.console import console, failures_are_messages
from launch.shell.interrupts import EXIT_INTERRUPTED
from launch.shell.progress import StageProgress


def main(argv: Sequence[str] | None = None) -> int:
    config = load_config(sys.argv[1:] if argv is None else argv, "Converts demonstrations to a LeRobot v3.0 dataset.")
    with failures_are_messages(Path(config.convert.output).parent):
        try:
            convert(config)
        except KeyboardInterrupt:
            console.print(f"Interrupted: {config.convert.output} was not written. The same command starts again.")
            return EXIT_INTERRUPTED
    return 0


def convert(config: Config) -> None:
    """Write the dataset.

    Raises ValueError if there are no demonstrations, if the output exists, or if pictures or joints differ in size.
    """
    from envs.demonstrations import configured_episodes, episode_frequency, read_episode, splits_of
    from envs.demonstrations.formats.lerobot.writer import DatasetWriter, by_split
    from envs.files import folder_made_atomically

    settings, output = config.demonstrations, Path(config.convert.output)
    listed = configured_episodes(settings, config.env.tasks, "all")
    splits = splits_of(settings.root, listed, (settings.validation_fraction, settings.test_fraction))
    episodes = by_split(splits)
    fps = config.convert.fps or episode_frequency(listed[0]) or config.env.control_hz
    robot = config.convert.robot_type or settings.embodiment or config.env.suite
    with (
        StageProgress("converting", len(episodes)) as progress,
        folder_made_atomically(output) as folder,
        DatasetWriter(folder, fps, robot, pixels=config.convert.pixels) as writer,
    ):
        for number, (split, reference) in enumerate(episodes):
            writer.add(reference, read_episode(reference, depth=True), split)
            progress.advance(number + 1, len(episodes))
    counts = ", ".join(f"{len(part)} {split}" for split, part in splits.items() if part)
    console.print(f"{output}: {len(episodes)} episodes ({counts}), {fps:g} observations a second", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
