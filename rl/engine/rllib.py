"""The connection to RLlib: its configuration, its lifecycle, and the ways of weights and metrics through it.

The rest of `rl` needs no knowledge of RLlib: `rl.algorithm` implements `iterate` and asks runners through `ask`.
"""

from __future__ import annotations

import logging
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
import ray.rllib.algorithms.algorithm as rllib_algorithm
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME, WEIGHTS_SEQ_NO

from configs.schema import Config, GroupsConfig
from policies.backbones.door import WAMSpec
from policies.catalogue import learned_kind
from policies.trace import Trace
from rl.engine.dispatch import STREAM_DEPTH, Dispatcher
from rl.engine.learner import ScheduleLearner
from rl.engine.module import PolicyModule
from rl.engine.placement import Room, bundle_of
from rl.engine.runner import WAMEnvRunner, module_spaces
from rl.engine.weights_server import make_weights_server
from rl.experience.records import EpisodeRequest, Failure, Reply, Request
from rl.experience.rollouts import Array

logger = logging.getLogger(__name__)

METRICS_KEY = "run"
SHOWN_FAILURES = 3


class EngineConfig(AlgorithmConfig):
    """RLlib's configuration, derived from the typed settings and the backbone's description."""

    settings: Config
    wam_spec: WAMSpec
    room: Room

    @classmethod
    def of(cls, settings: Config, spec: WAMSpec, room: Room | None = None) -> Self:
        """Return the configuration of runners in this room. Without one, they take what is free."""
        config = cls()
        config.settings, config.wam_spec = settings, spec
        config.room = room or Room(bundle_of(settings.rollout, 0))
        observation, action = module_spaces(spec)[DEFAULT_MODULE_ID]
        rollout = settings.rollout
        return (
            config.environment(observation_space=observation, action_space=action)
            .env_runners(
                env_runner_cls=WAMEnvRunner,
                num_env_runners=rollout.runners,
                num_cpus_per_env_runner=config.room.cpus,
                num_gpus_per_env_runner=config.room.gpus,
                create_local_env_runner=False,
                merge_env_runner_states=False,
                sample_timeout_s=None,
                max_requests_in_flight_per_env_runner=STREAM_DEPTH if is_asynchronous(settings) else 1,
            )
            .fault_tolerance(
                restart_failed_env_runners=True,
                max_num_env_runner_restarts=rollout.max_restarts,
                delay_between_env_runner_restarts_s=0,
                env_runner_health_probe_timeout_s=1,
                env_runner_restore_timeout_s=rollout.restart_deadline_s,
            )
            .learners(num_learners=0)
            .training(grad_clip=settings.objective.max_grad_norm, grad_clip_by="global_norm")
            .debugging(seed=settings.run.seed, log_level="WARN")
        )

    def get_default_learner_class(self) -> type[ScheduleLearner]:
        return ScheduleLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        model_config = {"spec": self.wam_spec, "schedule": self.settings.schedule}
        return RLModuleSpec(module_class=PolicyModule, model_config=model_config)


def is_asynchronous(settings: Config) -> bool:
    """Whether runners collect experience while the learner updates."""
    return isinstance(settings.collector, GroupsConfig) and settings.collector.asynchronous


class RunnerGroup(EnvRunnerGroup):
    """RLlib's group of runners, placed in the room that the run has reserved.

    Each gets the settings, some kilobytes, with its creation. RLlib would keep them in Ray's object store instead: when
    a signal ends the daemons together with the driver, Ray would try to save that object, find the store gone, and end
    the driver before it has saved the run.
    """

    def add_workers(self, *args: Any, **kwargs: Any) -> None:
        self._remote_args["scheduling_strategy"] = self._remote_config.room.strategy
        self._remote_config_obj_ref = self._remote_config
        super().add_workers(*args, **kwargs)


# RLlib lets a configuration choose the class of a runner, but not of their group, nor where they are placed.
rllib_algorithm.EnvRunnerGroup = RunnerGroup


class Engine(Algorithm):
    """RLlib's Algorithm as this project uses it: runners that answer requests, one learner, and weight broadcasts."""

    def setup(self, config: EngineConfig) -> None:
        try:
            super().setup(config)
        except IndexError as error:  # RLlib asks the first runner for its spaces, and there is none
            raise RuntimeError(f"No runner could be built: {self._why_no_runner()}") from error
        self.settings: Config = self.config.settings
        self.wam_spec: WAMSpec = self.config.wam_spec
        self.latest_metrics: dict[str, float] = {}
        kind = learned_kind(self.settings.schedule.name)
        untrained = kind.new_policy(self.wam_spec, self.settings.schedule)
        self.schedule = kind.schedule(untrained, self.settings.schedule)  # untrained: the learner holds the weights
        self.recent_failures: list[Failure] = []
        self.weights_version, self.broadcast_bytes = self._weights_on_offer()
        self._broadcasts: dict[int, int] = {}  # version of weights -> the number of versions before it
        self._server = make_weights_server() if is_asynchronous(self.settings) else None
        self.dispatcher = Dispatcher(
            self.env_runner_group,
            restore=lambda: self.restore_env_runners(self.env_runner_group),
            send_weights=self._send_weights,
            rollout=self.settings.rollout,
            asynchronous=self._server is not None,
        )

    @abstractmethod
    def iterate(self) -> dict[str, float]:
        """Make one iteration of the training, and return its metrics."""

    def training_step(self) -> None:
        """Make one iteration. RLlib returns only what its metrics logger saw, so the metrics also go to a field."""
        self.latest_metrics = self.iterate()
        for name, value in self.latest_metrics.items():
            self.metrics.log_value((METRICS_KEY, name), float(value), window=1)

    def _setup_logdir(self) -> None:
        """Give RLlib a folder for its results, of which it has none. Its own way makes one in the home folder."""
        self._logdir = tempfile.mkdtemp(prefix="rllib_")

    def cleanup(self) -> None:
        """Clean up, and remove the empty results folder."""
        super().cleanup()
        folder = Path(self.logdir)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    # runners

    @property
    def slots(self) -> int:
        """The number of requests of one round. The paths of a request are walked as one batch."""
        return self.settings.rollout.slots or max(1, self.settings.rollout.runners)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Return one reply for every request, in order. Failures are counted and logged, never raised."""
        replies = self.dispatcher.collect([self.with_server(request) for request in requests], self.weights_version)
        self.note_failures(replies)
        return replies

    def with_server(self, request: Request) -> Request:
        """Add the weights server to a request for episodes, if runners fetch their weights from it."""
        if self._server is None or not isinstance(request, EpisodeRequest):
            return request
        return replace(request, weights=self._server)

    def note_failures(self, replies: Sequence[Reply]) -> None:
        """Log the first failures of the replies, and keep them for error messages."""
        failures = [failure for reply in replies for failure in reply.failures]
        for failure in failures[:SHOWN_FAILURES]:
            logger.warning("Masked %s: %s", failure.outcome, failure.message)
        self.recent_failures = failures or self.recent_failures

    # learner

    def prepare_policy(self, trace: Trace) -> None:
        """Let the learner's policy see its first inputs, the decisions [K, ...], before it is updated."""
        self.learner_group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].policy.prepare(trace))

    def update(self, arrays: dict[str, Array], minibatch: int) -> dict[str, float]:
        """Make one pass over the rows, in order. Their number must be a multiple of `minibatch`."""
        rows = len(next(iter(arrays.values())))
        batch = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(arrays)}, env_steps=rows)
        results = self.learner_group.update(
            batch=batch,
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.iteration},
            num_epochs=1,
            minibatch_size=minibatch,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        learned: dict[str, float] = self.metrics.peek((LEARNER_RESULTS, DEFAULT_MODULE_ID))
        return learned

    # weights

    def broadcast(self) -> None:
        """Send the current weights to the runners. Asynchronous runners fetch them instead, since they are busy."""
        if self._server is None:
            self._send_weights(None)
        else:
            state = self.runner_state()
            ray.get(self._server.put.remote(int(state[WEIGHTS_SEQ_NO]), state))
        self.weights_version, self.broadcast_bytes = self._weights_on_offer()
        self._broadcasts.setdefault(self.weights_version, len(self._broadcasts))

    def staleness(self, reply: Reply) -> int:
        """Return the number of broadcasts since the weights of a reply; all of them if these were never broadcast."""
        return len(self._broadcasts) - 1 - self._broadcasts.get(reply.weights_version, -1)

    def runner_state(self) -> dict[str, Any]:
        """Return the current weights and their version, as a runner's `set_state` takes them."""
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        learner = self.learner_group.get_state(components=component, inference_only=True)
        state: dict[str, Any] = learner[COMPONENT_LEARNER]
        return state

    def _send_weights(self, runners: Sequence[int] | None) -> None:
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group,
            to_worker_indices=None if runners is None else list(runners),
            inference_only=True,
        )

    def _weights_on_offer(self) -> tuple[int, int]:
        """Return the version and the size in bytes of the weights that a broadcast sends to each runner."""
        state = self.runner_state()
        weights = state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID].values()
        return int(state[WEIGHTS_SEQ_NO]), sum(np.asarray(value).nbytes for value in weights)

    def _why_no_runner(self) -> str:
        """Return the last line of the error that the first runner's constructor raised."""
        for runner in self.env_runner_group._worker_manager.actors().values():
            try:
                ray.get(runner.ping.remote())
            except ray.exceptions.RayActorError as error:
                return str(error).strip().splitlines()[-1]
        return "the logs of the Ray session say why"
