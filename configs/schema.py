"""The typed configuration. Recipes (the YAML files in this folder) contain only differences from these defaults.

A method consists of a schedule, a collector of experience, rewards and an objective. The settings of each are a section
whose type is defined beside it (`policies/schedules`, `rl/rewards`, `rl/objectives`), so that a run has no settings of
methods that it does not use. So does a suite (`envs/<suite>/settings.py`). Each field has its limits, `free` if it may
change when a run is resumed, and `path` if it is one. Comments give sources of numbers: papers (P) or our choice (C).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from configs.failures import KINDS, FailuresConfig
from configs.fields import Problem, setting
from configs.planning import PlanConfig
from configs.pretraining import PretrainConfig
from configs.returns import ReturnsConfig
from configs.value import ValueTrainingConfig

TABLETOP_TASKS = ("click_bell", "lift_pot", "pass_post", "place_block_pad")
MODES = ("clean", "randomized")


@dataclass
class SuiteOptions:
    """The settings of a suite that defines none."""


@dataclass
class EnvConfig:
    """The suite, the tasks and the simulators in which episodes are played."""

    suite: str = "tabletop"  # a folder of envs that has a spec.py
    simulator: str = "envs.simulator:simulator_spec"  # module:function from this section to a SimulatorSpec
    tasks: list[str] = setting(list(TABLETOP_TASKS))
    mode: str = setting("clean", choices=MODES)
    head_size: int = setting(64, at_least=16, at_most=1024)  # pixels, square
    wrist_size: int = setting(32, at_least=16, at_most=1024)  # pixels, square
    control_hz: int = setting(10, at_least=1, at_most=250)
    depth: bool = False  # observations and demonstrations have depth pictures and the poses of the cameras too
    reset_deadline_s: float = setting(120.0, above=0, free=True)  # the first reset of a process compiles shaders
    chunk_deadline_s: float = setting(60.0, above=0, free=True)
    # A simulator process leaks memory. It is replaced after so many episodes, or when it uses so much memory.
    recycle_episodes: int = setting(500, at_least=1, free=True)
    recycle_rss_mib: int = setting(3072, at_least=512, free=True)
    options: Any = field(default_factory=SuiteOptions)  # the settings that the suite defines in its settings.py


@dataclass
class DemonstrationsConfig:
    """Expert episodes on disk, in any format of `envs/demonstrations/formats`, and the segments cut from them."""

    root: str = setting("data/demonstrations", path=True, uri=True)
    episodes_per_task: int = setting(60, at_least=1)
    modes: list[str] = setting(["clean"], choices=MODES)
    workers: int = setting(2, at_least=1, free=True)
    first_seed: int = setting(0, at_least=0)
    validation_fraction: float = setting(0.1, at_least=0, at_most=0.9)
    test_fraction: float = setting(0.1, at_least=0, at_most=0.9)
    embodiment: str = ""  # the folder of the robot, if the root has folders of several robots
    # The units of the stored joints, which are checked when they are read. as_stored: radians that are not checked.
    joints: str = setting("radians", choices=("radians", "degrees", "as_stored"))
    gripper_range: list[float] = setting([0.0, 1.0])  # the stored values of a closed and of an open gripper
    # module:function that takes (config, split, horizon) and returns the source of segments
    segments: str = "rl.experience.segments:demonstration_segments"
    segment_stride: int = setting(1, at_least=1)  # control steps between two segments of an episode
    failures: FailuresConfig = setting(FailuresConfig, free=True)  # episodes that are kept and are no demonstrations

    def conflicts(self) -> Iterator[Problem]:
        if self.validation_fraction + self.test_fraction >= 1:
            yield Problem(
                "validation_fraction", "leaves nothing to train on", "Keep its sum with test_fraction below 1."
            )
        if len(self.gripper_range) != 2 or self.gripper_range[0] == self.gripper_range[1]:
            yield Problem("gripper_range", f"{self.gripper_range} is no range", "Use [<closed>,<open>], such as [0,1].")
        for kind in KINDS:
            if (wanted := getattr(self.failures, kind)) > self.episodes_per_task:
                fix = f"Use at most {self.episodes_per_task}, or raise demonstrations.episodes_per_task."
                yield Problem(f"failures.{kind}", f"{wanted} scenes are more than there are demonstrations", fix)


@dataclass
class ConvertConfig:
    """`launch.convert`, which writes demonstrations as a LeRobot v3.0 dataset."""

    output: str = setting("data/lerobot", path=True)
    fps: float = setting(0.0, at_least=0, at_most=1000)  # observations per second; 0: the source's, else env.control_hz
    # yuv420p plays everywhere. yuv444p keeps the full colour, but browsers do not play it.
    pixels: str = setting("yuv420p", choices=("yuv420p", "yuv444p"))
    robot_type: str = ""  # the name of the robot in the dataset; empty: demonstrations.embodiment, else env.suite


@dataclass
class EmbedConfig:
    """`launch.embed`, which encodes the instructions of a run for a published backbone."""

    encoder: str = setting("", path=True)  # the folder with text_encoder and tokenizer
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))


@dataclass
class BenchConfig:
    """`launch.bench` of a published backbone."""

    # random: numbers of the real names and shapes, written to the folder, to know what the real ones will need.
    weights: str = setting("stored", choices=("stored", "random"))
    size: str = setting("full", choices=("full", "tiny"))  # of random weights
    folder: str = setting("data/random_backbones", path=True)
    batches: list[int] = setting([1], at_least=1)
    schedules: list[str] = setting(["fixed-1"])


@dataclass
class WAMConfig:
    """The frozen backbone."""

    # A published layout (docs/backbones.md), a folder of policies/backbones, or a module with `describe` and `load`.
    backbone: str = "tiny"
    # A folder, for published layouts a file too, or a URI. A resume compares the hash of its weights.
    checkpoint: str = setting("policies/backbones/checkpoints/tiny", free=True, path=True, uri=True)
    # Of published layouts. Empty: they are beside the checkpoint, as docs/backbones.md says.
    statistics: str = setting("", free=True, path=True)  # the file of the normalisation of actions and states
    vae: str = setting("", free=True, path=True)  # the folder of Wan's autoencoder, as diffusers saves it
    embeddings: str = setting("data/embeddings", free=True, path=True)  # the folder that `launch.embed` fills
    value: str = setting("", path=True)  # the file of a value expert, for planners (backbone tiny); empty: none
    # The file of what lets the action read the values of `wam.value` (WAV's third stage, backbone tiny); empty: none.
    value_reader: str = setting("", path=True)
    device: str = setting("auto", choices=("auto", "cpu", "cuda"), free=True)
    dtype: str = setting("float32", choices=("float32", "bfloat16"))
    torch_threads: int = setting(1, at_least=1, free=True)  # threads of each process

    def of_another(self, checkpoint: str) -> WAMConfig:
        """Return these settings for another backbone. Value expert and reader belong to the configured one alone."""
        return replace(self, checkpoint=checkpoint, value="", value_reader="")


@dataclass
class ScheduleConfig:
    """The schedule that a run trains. Its file in `policies/schedules` defines its other settings."""

    name: str = "sants"


@dataclass
class CollectorConfig:
    """These settings say how experience is collected: by `segments` or by `groups`."""

    name: str = "segments"


@dataclass
class SegmentsConfig(CollectorConfig):
    """Collects paths, which are walks from the states of demonstrations (SANTS 3.3)."""

    name: str = setting("segments", choices=("segments",))
    paths_per_iteration: int = setting(64, at_least=1)
    # P: 1. Several paths of a segment can be compared with each other, since segments differ more than decisions do.
    paths_per_segment: int = setting(1, at_least=1)
    # P: sampled. `all`: a path goes on to its end and counts with each possible stop, weighted by its probability.
    stops: str = setting("sampled", choices=("sampled", "all"))
    split: str = setting("train", choices=("train", "validation", "test"))
    # At most this many segments, spread evenly. Anchors walked: segments x noise seeds.
    max_segments: int = setting(1024, at_least=1)
    noise_seeds: int = setting(1, at_least=1)  # the number of initial noises of each segment; they take turns
    validation_paths: int = setting(64, at_least=0)  # the paths of each validation; 0: none

    def conflicts(self) -> Iterator[Problem]:
        if self.paths_per_iteration % max(1, self.paths_per_segment):
            yield Problem(
                "paths_per_segment",
                f"{self.paths_per_segment} does not divide paths_per_iteration={self.paths_per_iteration}",
                f"Use a divisor of {self.paths_per_iteration}, or 1 for the moving average as baseline.",
            )


@dataclass
class GroupsConfig(CollectorConfig):
    """Collects groups of episodes with the same scene and instruction (NoiseGate 4.4)."""

    name: str = setting("groups", choices=("groups",))
    size: int = setting(8, at_least=2)  # P: the episodes of a group
    per_iteration: int = setting(1, at_least=1)  # P: the groups of an iteration
    shared_noise: bool = False  # C: its walks start from the same noise, so that only decisions differ
    first_seed: int = setting(200_000, at_least=0)
    seeds_per_task: int = setting(1000, at_least=1)  # the number of scenes, which are visited in shuffled rounds
    # How often an episode that was lost to a simulator fault is played again. After that, its group is dropped.
    retries: int = setting(2, at_least=0)
    # P: 0. How many more groups an iteration may play to replace groups of equal return.
    resample_budget: int = setting(0, at_least=0)
    overlap: bool = setting(True, free=True)  # denoise one half of a runner's episodes while the other half steps
    asynchronous: bool = False  # runners collect experience while the learner updates
    max_staleness: int = setting(2, at_least=0)  # asynchronous experience is dropped if it is more updates behind

    def conflicts(self) -> Iterator[Problem]:
        if self.resample_budget and self.asynchronous:
            yield Problem("resample_budget", "needs rounds that end", "Use collector.asynchronous=false.")


@dataclass
class RewardConfig:
    """The settings that every reward of `rl/rewards` has."""

    weight: float = setting(1.0)  # the weight of the reward in the sum


@dataclass
class ObjectiveConfig:
    """The settings that every objective of `rl/objectives` has: the optimizer and the size of an update."""

    name: str = "path_ppo"
    learning_rate: float = setting(1e-4, above=0)
    learning_rate_end: float = setting(1.0, at_least=0, at_most=1)  # the share to which the rate falls linearly
    weight_decay: float = setting(1e-4, at_least=0)
    epochs: int = setting(4, at_least=1)
    max_grad_norm: float = setting(1.0, above=0)
    clip: float = setting(0.2, above=0)
    # The unit that has a probability ratio: a path, a decision, or a choice (a gate makes one for each frame).
    ratio: str = setting("path", choices=("path", "decision", "choice"))


@dataclass
class ActionErrorConfig:
    """The error of an action chunk against a demonstration, in the reward and in evaluations (SANTS, Appendix D)."""

    position_weight: float = setting(1.0, at_least=0)  # for each position_unit_m
    rotation_weight: float = setting(0.5, at_least=0)  # for each rotation_unit_rad
    gripper_weight: float = setting(0.2, at_least=0)
    position_unit_m: float = setting(0.01, above=0)
    rotation_unit_rad: float = setting(0.1, above=0)
    gripper_event_threshold: float = setting(0.1, at_least=0, at_most=1)
    gripper_event_weight: float = setting(2.0, at_least=0)
    fast_motion_weight: float = setting(1.0, at_least=0)
    fast_motion_quantile: float = setting(0.8, at_least=0, at_most=1)


@dataclass
class RolloutConfig:
    """The processes that collect experience. Only `slots` changes what is learned."""

    runners: int = setting(2, at_least=0, free=True)  # 0: the driver's own process collects
    slots: int = setting(0, at_least=0)  # the requests of an iteration, each walked as one batch; 0: one per runner
    gpus_per_runner: float = setting(0.0, at_least=0, free=True)  # a part of one, such as 0.25, or whole ones
    # On a cluster that others use too, a runner asks for so many cores for each of its simulators, and at least one.
    cpus_per_simulator: float = setting(1.0, at_least=0, free=True)
    placement: str = setting("pack", choices=("pack", "spread"), free=True)  # of the runners, on few nodes or on many
    room_deadline_s: float = setting(60.0, above=0, free=True)  # the run ends after so long without room on a cluster
    episodes_per_runner: int = setting(4, at_least=1, free=True)  # the simulator processes of each runner
    max_empty_iterations: int = setting(3, at_least=1, free=True)  # the run ends after so many without any experience
    max_restarts: int = setting(100, at_least=0, free=True)  # of each runner
    restart_deadline_s: float = setting(180.0, above=0, free=True)  # the run ends after so long without any runner
    request_deadline_s: float = setting(1800.0, above=0, free=True)  # a runner that takes longer is replaced

    def conflicts(self) -> Iterator[Problem]:
        if self.gpus_per_runner > 1 and self.gpus_per_runner % 1:
            yield Problem("gpus_per_runner", f"{self.gpus_per_runner} cannot be given", "Use a part of one, or 2, 3.")


@dataclass
class ValidationConfig:
    """Closed-loop validation during the training. The best checkpoint is chosen by it."""

    every: int = setting(25, at_least=0)  # validate after so many iterations; 0: never
    episodes_per_task: int = setting(8, at_least=0)
    first_seed: int = setting(50_000, at_least=0)


@dataclass
class EvaluationConfig:
    """The comparison of schedules on the same held-out seeds."""

    schedules: list[str] = setting(["fixed-full", "fixed-5", "fixed-2", "fixed-1", "sants"])
    episodes_per_task: int = setting(50, at_least=1)
    first_seed: int = setting(100_000, at_least=0)
    # Other backbones by name: "joint-10@name" walks on this checkpoint.
    backbones: dict[str, str] = setting({}, path=True, uri=True)
    processes: int = setting(2, at_least=0)
    reference: str = "fixed-full"  # the schedule with which the others are compared
    checkpoint: str = setting("", path=True)  # a run's checkpoint or an exported schedule; empty: the best of the run
    # Further trained schedules by name: a run directory, a checkpoint or an exported schedule.
    trained: dict[str, str] = setting({}, path=True)
    segments: int = setting(128, at_least=0)  # held-out segments to measure latency and action error; 0: none
    record_videos: int = setting(0, at_least=0)
    output: str = setting("", path=True)
    # What launch.constants compares on the seeds of the validation: schedules that do not look at the state.
    constants: list[str] = setting(
        [
            *("fixed-1", "fixed-2", "fixed-3", "fixed-5"),
            *("fixed-2-then-1", "fixed-3-then-1", "fixed-5-then-1", "fixed-3-then-2", "fixed-5-then-2"),
        ]
    )
    # The mean forwards of a query that the best constant may cost; 0: those of each trained row of the comparison.
    most_forwards: float = setting(0.0, at_least=0)


@dataclass
class RunConfig:
    """The run: its directory, its length and its checkpoints."""

    name: str = setting("sants", free=True)
    root: str = setting("runs", free=True, path=True, uri=True)
    seed: int = setting(42, at_least=0, at_most=2**31 - 1)
    iterations: int = setting(120, at_least=1, free=True)
    checkpoint_every: int = setting(10, at_least=1, free=True)
    keep_checkpoints: int = setting(3, at_least=1, free=True)
    resume: str = setting("auto", free=True, path=True)  # auto | never | a checkpoint directory
    inherit: str = setting("", free=True, path=True)  # a run directory whose anchors are reused if they are valid here
    start_from: str = setting("", path=True)  # a run, checkpoint or exported schedule whose weights the training takes
    quick: bool = setting(False, free=True)


@dataclass
class Config:
    """All settings that a recipe may change."""

    run: RunConfig = field(default_factory=RunConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    demonstrations: DemonstrationsConfig = field(default_factory=DemonstrationsConfig)
    convert: ConvertConfig = setting(ConvertConfig, free=True)
    embed: EmbedConfig = setting(EmbedConfig, free=True)
    bench: BenchConfig = setting(BenchConfig, free=True)
    wam: WAMConfig = field(default_factory=WAMConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    collector: CollectorConfig = field(default_factory=SegmentsConfig)
    reward: dict[str, Any] = field(default_factory=dict)  # the settings of each reward by name; rewards are added up
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    action_error: ActionErrorConfig = field(default_factory=ActionErrorConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    evaluation: EvaluationConfig = setting(EvaluationConfig, free=True)
    pretrain: PretrainConfig = setting(PretrainConfig, free=True)
    returns: ReturnsConfig = setting(ReturnsConfig, free=True)
    value: ValueTrainingConfig = setting(ValueTrainingConfig, free=True)
