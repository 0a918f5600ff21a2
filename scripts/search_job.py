"""The wiring of one search: rooms that do not know each other meet here."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from nas.architecture import Architecture
from nas.measure import choose_device, describe_device
from nas.report import Progress, Tracker, check_ready, print_summary, write_report, write_trials
from nas.study import events
from nas.study.evaluator import ProxyEvaluator
from nas.study.loop import Bars, Loop
from nas.study.noise import noise_floors, repeat_seeds
from nas.study.rows import Row, StudyResult
from nas.study.samplers import make_sampler
from nas.study.storage import open_study, study_lock
from nas.study.trials import enqueue_references, requeue_interrupted
from scripts.settings import SearchSettings
