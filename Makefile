# `make train-sants` and `make test` need nothing done before them.
#   QUICK=1            smaller numbers, marked so
#   ARGS="key=value"   any configuration key, as listed by `python -m launch.train --help`
#   SUITE=robotwin     RoboTwin 2.0 instead of the built-in suite (docs/robotwin.md)
#   BACKBONE=<key>     a published World Action Model in data/backbones/<key>, in bfloat16 (docs/backbones.md)

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := $(VENV)/.packages
VULKAN := $(VENV)/.vulkan
HEADLESS = $(shell sed -n 's/^ *\(opencv-python-headless==.*\)/\1/p' setup.cfg)
MODEL = $(if $(BACKBONE),wam.backbone=$(BACKBONE) wam.checkpoint=data/backbones/$(BACKBONE) wam.dtype=bfloat16)
OVERRIDES = $(if $(SUITE),env.suite=$(SUITE)) $(MODEL) $(if $(filter 1 yes true,$(QUICK)),run.quick=true) $(ARGS)
RECIPE ?= configs/sants.yaml
QUICK_SUFFIX := $(if $(filter 1 yes true,$(QUICK)),-quick)
SANTS := runs/sants-paper$(QUICK_SUFFIX)
# A learned ablation is a run of its own. It takes the anchors of the main run, which cost most of a first round.
ABLATED = run.name=sants-paper-$* schedule.name=$* run.inherit=$(SANTS) 'evaluation.schedules=[]'
SANTS_ABLATION = 'evaluation.schedules=[fixed-full,fixed-5,jump-only,stop-only,sants]' \
	evaluation.trained.jump-only=runs/sants-paper-jump-only$(QUICK_SUFFIX) \
	evaluation.trained.stop-only=runs/sants-paper-stop-only$(QUICK_SUFFIX) evaluation.output=$(SANTS)/evaluation/ablation.json
ABLATION = 'evaluation.schedules=[joint-10@shared,joint-10,handcrafted,noisegate]' evaluation.episodes_per_task=200 \
	evaluation.backbones.shared=runs/pretrain_shared/checkpoint evaluation.output=runs/noisegate/evaluation/ablation.json
WAV := runs/value$(QUICK_SUFFIX)
WAV_NAME = wav$(if $(READER),-reader)
WAV_PARTS = $(if $(VALUE),wam.value=$(VALUE)) $(if $(READER),wam.value_reader=$(READER))
# In front of five steps, a candidate is rated after the same five.
FIVE_STEPS = 'evaluation.schedules=[fixed-5,fixed-5+best-of-8,fixed-5+best-of-24,fixed-5+plan-3-8,fixed-full]' evaluation.reference=fixed-5 \
	plan.depth=6 plan.steps=5
CLUSTER = $(if $(ADDRESS),ADDRESS=$(ADDRESS)) $(if $(JOB),JOB=$(JOB))
HOST ?= 127.0.0.1
LOGDIR ?= runs
PORT ?= 6006

.DEFAULT_GOAL := help
.PHONY: help setup doctor demos returns pretrain pretrain-shared train-sants train-sants-paper train-noisegate train-xwam train-wav ablate-sants ablate-noisegate evaluate evaluate-xwam evaluate-wav \
	submit-sants submit-noisegate status stop logs robotwin-manifest tensorboard bench lint test test-fast soak clean

help:  ## list the targets
	@echo 'usage: make <target> [QUICK=1] [ARGS="key=value ..."]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' Makefile

setup: $(PACKAGES) $(VULKAN)  ## virtual environment, pinned packages, a Vulkan device that SAPIEN accepts

$(PACKAGES): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo 'Python 3.11 is needed: make PYTHON=/path/to/python3.11'; exit 1; }
	@test -x $(PY) || $(PYTHON) launch/machine/setup_venv.py $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@# sapien asks for opencv-python, whose copy of cv2 needs an X server's libraries: the headless copy goes on top.
	$(PY) -m pip install --quiet --no-deps --force-reinstall $(HEADLESS)
	@touch $@

$(VULKAN): $(PACKAGES) launch/machine/setup_vulkan.py
	$(PY) -m launch.machine.setup_vulkan
	@touch $@

doctor: $(PACKAGES)  ## what this machine can do, and the command for what it lacks
	$(PY) -m launch.doctor $(strip $(if $(SUITE),env.suite=$(SUITE)) $(MODEL)) $(ARGS)

demos: setup  ## collect the expert's demonstrations (resumes)
	$(PY) -m launch.collect configs/sants.yaml $(OVERRIDES)

returns: setup  ## dense returns of demonstrations and failures, for a value expert (docs/dense_returns.md)
	$(PY) -m launch.returns configs/sants.yaml $(OVERRIDES)

pretrain: setup  ## train the tiny World Action Model again (hours on a CPU)
	$(PY) -m launch.collect configs/pretrain.yaml $(OVERRIDES)
	$(PY) -m launch.pretrain configs/pretrain.yaml $(OVERRIDES)

pretrain-shared: setup  ## the same under one noise level for all frames: the twin of NoiseGate's ablation
	$(PY) -m launch.collect configs/pretrain.yaml $(OVERRIDES)
	$(PY) -m launch.pretrain configs/pretrain.yaml pretrain.noise=shared pretrain.output=runs/pretrain_shared $(OVERRIDES)

train-sants: setup  ## the main job: demonstrations, training, validation, comparison table
	$(PY) -m launch.train configs/sants.yaml $(OVERRIDES)

train-noisegate: setup  ## a gate on each future frame's noise, by GRPO on the success of episodes
	$(PY) -m launch.train configs/noisegate.yaml $(OVERRIDES)

ablate-sants: train-sants-paper ablate-sants-jump-only ablate-sants-stop-only  ## SANTS as in the paper, with one head each (resumes)
	$(PY) -m launch.evaluate configs/sants_paper.yaml $(SANTS_ABLATION) $(OVERRIDES)

train-sants-paper: setup
	$(PY) -m launch.train configs/sants_paper.yaml $(OVERRIDES)

ablate-sants-%: train-sants-paper
	$(PY) -m launch.train configs/sants_paper.yaml $(ABLATED) $(OVERRIDES)

ablate-noisegate: pretrain-shared train-noisegate  ## the full table of NoiseGate's ablation (hours; resumes)
	$(PY) -m launch.evaluate configs/noisegate.yaml $(ABLATION) $(OVERRIDES)

evaluate: setup  ## the comparison table of the latest run
	$(PY) -m launch.evaluate configs/sants.yaml $(OVERRIDES)

train-xwam: setup  ## X-WAM: demonstrations with depth, its training (hours on a CPU), the comparison, the imagined futures
	$(PY) -m launch.collect configs/pretrain_xwam.yaml $(OVERRIDES)
	$(PY) -m launch.pretrain configs/pretrain_xwam.yaml $(OVERRIDES)
	$(MAKE) --no-print-directory evaluate-xwam CHECKPOINT=runs/pretrain_xwam/checkpoint

evaluate-xwam: setup  ## the comparison and the imagined futures of the X-WAM that ships, or CHECKPOINT=<folder>
	$(PY) -m launch.collect configs/xwam.yaml $(OVERRIDES)
	$(PY) -m launch.evaluate configs/xwam.yaml $(if $(CHECKPOINT),wam.checkpoint=$(CHECKPOINT)) $(OVERRIDES)
	$(PY) -m launch.reconstruct configs/xwam.yaml $(if $(CHECKPOINT),wam.checkpoint=$(CHECKPOINT)) $(OVERRIDES)

train-wav: setup  ## WAV: failures beside demonstrations, dense returns, a value expert and its reader (hours on a CPU), the comparisons
	$(PY) -m launch.collect configs/wav.yaml $(OVERRIDES)
	$(PY) -m launch.returns configs/wav.yaml $(OVERRIDES)
	$(PY) -m launch.value configs/wav.yaml $(OVERRIDES)
	$(MAKE) --no-print-directory evaluate-wav VALUE=$(WAV)/value.safetensors
	$(MAKE) --no-print-directory evaluate-wav VALUE=$(WAV)/value.safetensors READER=$(WAV)/reader.safetensors

evaluate-wav: setup  ## planning with the shipped value expert, or VALUE=<file>, against none; READER=<file>: actions that read values
	$(PY) -m launch.evaluate configs/wav.yaml $(WAV_PARTS) run.name=$(WAV_NAME) $(OVERRIDES)
	$(PY) -m launch.evaluate configs/wav.yaml $(WAV_PARTS) run.name=$(WAV_NAME)-five-steps $(FIVE_STEPS) $(OVERRIDES)

submit-sants: $(PACKAGES)  ## the main job on the Ray cluster at ADDRESS, with its files below SHARED (resumes; docs/cluster.md)
	$(PY) -m launch.job submit $(CLUSTER) 'SHARED=$(SHARED)' train configs/sants.yaml $(OVERRIDES)

submit-noisegate: $(PACKAGES)  ## the same for NoiseGate
	$(PY) -m launch.job submit $(CLUSTER) 'SHARED=$(SHARED)' train configs/noisegate.yaml $(OVERRIDES)

status: $(PACKAGES)  ## the jobs of the cluster at ADDRESS
	$(PY) -m launch.job status $(CLUSTER)

stop: $(PACKAGES)  ## ask the newest job, or JOB=<id>, to save and end
	$(PY) -m launch.job stop $(CLUSTER)

logs: $(PACKAGES)  ## the output of the newest job, or of JOB=<id>
	$(PY) -m launch.job logs $(CLUSTER)

robotwin-manifest: $(PACKAGES)  ## which seeds RoboTwin's expert solves, for RECIPE=configs/sants.yaml (resumes; needs cuRobo)
	$(PY) -m launch.robotwin manifest $(RECIPE) $(OVERRIDES)

tensorboard: $(PACKAGES)  ## curves of all runs, or of LOGDIR=<folder or URI>, on this machine only
	$(PY) -m tensorboard.main --logdir '$(LOGDIR)' --host $(HOST) --port $(PORT)

bench: setup  ## speed, as ratios of one run
	$(PY) -m launch.bench configs/sants.yaml $(OVERRIDES)

lint: $(PACKAGES)  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: $(PACKAGES)  ## all tests; those that render are skipped, with the reason, where there is no Vulkan device
	-@$(MAKE) --no-print-directory $(VULKAN)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

test-fast: $(PACKAGES)  ## for work in progress: all tests but those that are slow, start Ray or render
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m 'not slow and not ray and not render' $(ARGS)

soak: $(PACKAGES)  ## faults at random for an hour or more: nothing is lost, nothing grows (ARGS="resets=2000 iterations=500 seed=0")
	OMP_NUM_THREADS=1 $(PY) -m tests.soak $(ARGS)

clean:  ## remove caches and build outputs; demonstrations, runs and the environment stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
