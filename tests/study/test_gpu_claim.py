"""Which GPU a worker takes, told from a list of names: no GPU is needed."""

import os
from contextlib import ExitStack

import pytest

from nas.study import gpu_claim
from nas.study.errors import StudyError
from nas.study.gpu_claim import VISIBLE, claimed_gpus, take_place, visible_gpus

GPUS = ["GPU-aaaa-1", "GPU-bbbb-2"]


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_claim, "list_gpus", lambda: GPUS)
    monkeypatch.setattr(gpu_claim.torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_claim, "private_folder", lambda: tmp_path)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_each_gpu_gets_a_worker_before_any_gets_two_and_then_there_is_no_room(tmp_path):
    gpus = {name: name for name in GPUS}
    with ExitStack() as stack:
        taken = [take_place(gpus, 2, tmp_path, stack) for _ in range(4)]
        assert taken == [*GPUS, *GPUS]
        with pytest.raises(StudyError, match=r"2 worker\(s\), and all places are taken .* set workers_per_gpu=3"):
            take_place(gpus, 2, tmp_path, stack)
    with ExitStack() as stack:
        assert take_place(gpus, 1, tmp_path, stack) == GPUS[0], "what was held is free again"


def test_the_claimed_gpu_is_the_only_one_seen_within_the_block(two_gpus):
    with claimed_gpus("auto", 1) as first:
        assert os.environ[VISIBLE] == first == GPUS[0]
    assert VISIBLE not in os.environ


def test_workers_of_a_scheduler_choose_among_what_it_gave_them(two_gpus, monkeypatch, tmp_path):
    monkeypatch.setenv(VISIBLE, "1,GPU-aaaa")
    assert visible_gpus() == {"1": GPUS[1], "GPU-aaaa": GPUS[0]}
    with ExitStack() as stack:
        take_place({GPUS[1]: GPUS[1]}, 1, tmp_path, stack)
        with claimed_gpus("cuda", 1) as mine:
            assert mine == "GPU-aaaa", "another worker knows the first by its UUID and has taken it"
    assert os.environ[VISIBLE] == "1,GPU-aaaa"
    monkeypatch.setenv(VISIBLE, "")
    assert visible_gpus() == {}


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_was_named_is_left_alone(two_gpus, device):
    with claimed_gpus(device, 1) as gpu:
        assert gpu is None
        assert VISIBLE not in os.environ


def test_a_trial_of_several_gpus_claims_different_ones_or_says_how_many_there_are(two_gpus, tmp_path):
    with claimed_gpus("auto", 2, 2) as mine:
        assert mine == os.environ[VISIBLE] == ",".join(GPUS)
    with pytest.raises(StudyError, match="devices_per_trial=3 needs as many GPUs, and this worker may use 2"):
        claimed_gpus("auto", 1, 3).__enter__()
    with ExitStack() as stack:
        take_place({GPUS[1]: GPUS[1]}, 1, tmp_path, stack)
        with pytest.raises(StudyError, match="all places are taken"):
            claimed_gpus("auto", 1, 2).__enter__()


def test_a_machine_without_a_gpu_claims_nothing(monkeypatch):
    monkeypatch.setattr(gpu_claim.torch.version, "cuda", None)
    with claimed_gpus("auto", 1) as gpu:
        assert gpu is None
