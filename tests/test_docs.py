"""Every code block of README and docs: files are written and used, commands run small or are validated.

Commands that need other programs (git, conda, a download) are left out by name, so that a new one is noticed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config
from envs.demonstrations import list_episodes, read_episode
from launch.shell.cli import load_config
from tests.envs.demonstration_trees import episode_of

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ROOMS = ("configs", "envs", "policies", "rl", "launch", "tests")
FOREIGN = (  # programs that are not ours
    *("git", "conda", "cd", "bash", "mkdir", "cat", "root:", "python:", "END"),
    *("hf", "ssh", "ray", "docker", "kubectl", "export", "sbatch"),
)
SMALL = [
    "wam.backbone=tests.analytic", "env.simulator=tests.toy_simulator:toy_spec", "env.tasks=[click_bell]",
    "demonstrations.segments=tests.analytic:load_segments", "rollout.episodes_per_runner=2",
    "evaluation.episodes_per_task=2", "evaluation.segments=4", "evaluation.processes=0",
]  # fmt: skip
SMALL_TRAINING = [
    "rollout.runners=0", "validation.every=0", "validation.episodes_per_task=0", "run.iterations=2",
    "collector.paths_per_iteration=16", "collector.validation_paths=4", "reward.path.calibration_segments=8",
]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that the block is, by its first line; empty if it is none."""
        found = re.match(r"# ((?:policies|rl|envs|configs)/\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, without comments."""
        joined = self.text.replace("\\\n", " ")
        lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return [shlex.split(line, comments=True) for line in lines]


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            found.append(Block(page, language, text))
    return found


def is_drawing(block: Block) -> bool:
    return any(mark in block.text for mark in "┌│└─")


def shell_commands() -> list[list[str]]:
    return [
        command
        for block in blocks()
        if block.language in ("", "sh", "bash") and not is_drawing(block) and not block.file
        for command in block.commands
    ]


def test_every_command_is_one_that_this_test_knows() -> None:
    programs = {command[0] for command in shell_commands()}
    assert programs <= {"make", "python", *FOREIGN}
    assert {block.language for block in blocks()} <= {"", "sh", "bash", "python", "yaml", "json", "text"}


def test_make_commands_have_their_targets() -> None:
    for command in [command for command in shell_commands() if command[0] == "make"]:
        done = subprocess.run(
            [command[0], "-n", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)


def launch_commands(*pages: str) -> list[list[str]]:
    """`[verb, argument, ...]` of every `python -m launch.<verb>` of these pages; of all, if none is named."""
    found = []
    for block in blocks():
        if is_drawing(block) or block.file or block.language not in ("", "sh", "bash"):
            continue
        if pages and block.page.name not in pages:
            continue
        found += [command for command in block.commands if command[:2] == ["python", "-m"]]
    return [[command[2].removeprefix("launch."), *command[3:]] for command in found]


def test_arguments_of_every_command_are_valid() -> None:
    """With a stand-in for what a user fills in."""
    pages = ("README.md", "demonstrations.md", "backbone.md", "backbones.md", "noisegate.md", "adaptivity.md", "wav.md")
    for _, *arguments in launch_commands(*pages):
        arguments = [argument for argument in arguments if argument != "backbone"]  # what the doctor looks at
        filled = [re.sub(r"<[^>]*>", "somewhere", argument) for argument in arguments if not argument.startswith("--")]
        kept = [argument for argument in filled if not argument.startswith("evaluation.schedules=[fixed-full,linear")]
        assert isinstance(load_config(kept, "Test."), Config)


def test_json_blocks_are_json() -> None:
    for block in blocks():
        if block.language == "json":
            json.loads(block.text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree with every file that the pages show."""
    copy = tmp_path_factory.mktemp("project")
    for room in ROOMS:
        ignored = shutil.ignore_patterns("checkpoints", "goldens")  # what is compiled stays so
        shutil.copytree(REPOSITORY / room, copy / room, ignore=ignored)
    checkpoints = "policies/backbones/checkpoints"
    (copy / checkpoints).symlink_to(REPOSITORY / checkpoints)
    for block in blocks():
        if block.file:
            (copy / block.file).parent.mkdir(parents=True, exist_ok=True)
            (copy / block.file).write_text(block.text)
    return copy


def run_in(project: Path, *command: str, code: int = 0) -> str:
    """What the command said, if it ended with this code."""
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return " ".join((done.stdout + done.stderr).split())


def shown_command(verb: str, page: str = "extending.md") -> list[str]:
    """The arguments of the only command with this verb on a page."""
    (arguments,) = [arguments for name, *arguments in launch_commands(page) if name == verb]
    return arguments


@pytest.mark.ray
@pytest.mark.slow
def test_what_extending_shows_is_added_by_its_file_alone(project: Path) -> None:
    """Schedule, learned schedule with its recipe, reward, objective and suite: each is trained or evaluated, small."""
    commands = []
    for verb, *arguments in launch_commands("extending.md"):
        if verb in ("collect", "convert") or any("wam.backbone=" in argument for argument in arguments):
            continue  # tests of their own
        given = {argument.partition("=")[0] for argument in arguments}
        simulated = ("env.simulator", "env.tasks") if "env.suite" in given else ()
        small = [*SMALL, *(SMALL_TRAINING if verb == "train" else [])]
        small = [one for one in small if one.partition("=")[0] not in {*given, *simulated}]
        if verb == "train" and "configs/batch_mean.yaml" not in arguments:
            small.append("objective.minibatch_paths=16")
        if "configs/sants.yaml" in arguments and verb == "train":
            small.append("evaluation.schedules=[fixed-1,sants]")
        commands.append([verb, *arguments, *small])
    (project / "commands.json").write_text(json.dumps(commands))
    run_in(project, "-m", "tests.docs_driver", "commands.json")
    table = json.loads((project / "runs/sants/evaluation/clean.json").read_text())
    assert "late" in (project / "runs/sants/metrics.jsonl").read_text()
    assert {"fixed-1", "sants"} <= table["rows"].keys() or "linear-4" in table["rows"]
    assert (project / "runs/one_number/evaluation/clean.json").is_file()
    assert (project / "runs/batch_mean/metrics.jsonl").is_file()
    of_suite = json.loads((project / "runs/sants-toy_arms/evaluation/clean.json").read_text())
    assert of_suite["fingerprint"]["simulator"] == {"tolerance": 0.8, "steps": 40}
    assert [row["settle"]["outcomes"] for row in of_suite["rows"].values()] == [{"success": 2}] * 2


PATIENT = """
import numpy as np
from configs.schema import WAMConfig
from policies.backbones import describe, load_wam
from policies.catalogue import build_schedule
from policies.walk import walk
config = WAMConfig(backbone="patient", device="cpu")
assert describe(config).reference_updates == 50
wam = load_wam(config)
picture = lambda size: np.zeros((size, size, 3), np.uint8)
observation = {"head": picture(64), "left_wrist": picture(32), "right_wrist": picture(32),
               "joints": np.zeros(14, np.float32)}
walked = walk(wam, wam.observe([observation], ["lift the pot"]), build_schedule("fixed-full", wam.spec), [0])
assert walked.forwards.tolist() == [50]
"""

EXPORTED = """
from configs.schema import WAMConfig
from policies.backbones import describe
from policies.exported import export_schedule
from policies.catalogue import build_schedule
spec = describe(WAMConfig())
export_schedule("runs/sants/exported", build_schedule("sants", spec), spec)
"""


def test_a_backbone_is_one_file_and_an_exported_schedule_walks_as_the_readme_says(project: Path) -> None:
    """The README's Python block is run as it stands, on an untrained schedule of the shipped backbone."""
    (readme,) = [block for block in blocks() if "load_schedule" in block.text and block.page.name == "README.md"]
    script = PATIENT + EXPORTED + readme.text + "\nassert actions.shape == (1, wam.spec.action_horizon, 14)\n"
    run_in(project, "-c", script)


PUBLISHED = """
from policies.backbones.published.layout import LAYOUTS, wanted_tensors
layout = LAYOUTS.get("small-fastwam")
wanted = wanted_tensors(layout, layout.sizes["full"])
assert "net.mot.mixtures.action.blocks.14.modulation" in wanted
assert "net.mot.mixtures.action.blocks.15.modulation" not in wanted
"""


def test_a_published_backbone_is_one_file(project: Path) -> None:
    run_in(project, "-c", PUBLISHED)


def test_a_suite_is_one_folder_whose_settings_are_checked(project: Path) -> None:
    files = [block.file for block in blocks() if "toy_arms" in block.text and block.file]
    assert len(files) >= 4
    assert {Path(file).parent.as_posix() for file in files} == {"envs/toy_arms"}
    wrong = ["env.options.tolerence=1", "env.options.steps=0", "env.tasks=[click_bell]"]
    said = run_in(project, "-m", "launch.evaluate", "env.suite=toy_arms", *wrong, code=2)
    assert "env.options.tolerence: is no key. Did you mean env.options.tolerance?" in said
    assert "env.options.steps: 0 is out of range" in said
    said = run_in(project, "-m", "launch.evaluate", "env.suite=toy_arms", wrong[-1], code=2)
    assert "env.tasks: 'click_bell' is no task of this suite. Use settle." in said


def test_a_dataset_format_is_one_file_that_everything_reads(project: Path) -> None:
    folder = project / "data/arrays/click_bell/clean"
    folder.mkdir(parents=True)
    episodes = [episode_of(index, actions=6) for index in range(3)]
    for index, episode in enumerate(episodes):
        np.savez(folder / f"{index}.npz", **episode.images, joints=episode.joints, instruction=episode.instruction)
    run_in(project, "-m", "launch.convert", *shown_command("convert"))
    written = list_episodes(project / "data/shared", ["click_bell"], ["clean"], "all")
    read = {read_episode(reference).instruction: read_episode(reference).joints for reference in written}
    assert read.keys() == {episode.instruction for episode in episodes}
    for episode in episodes:
        np.testing.assert_array_equal(read[episode.instruction], episode.joints)


@pytest.mark.render
@pytest.mark.slow
def test_a_task_is_one_file_that_the_expert_plays(project: Path) -> None:
    few = ["demonstrations.episodes_per_task=2", "demonstrations.workers=1"]
    said = run_in(project, "-m", "launch.collect", *shown_command("collect"), *few)
    assert "point_at_block/clean: 2 episodes 2 written now." in said
