"""Recording a call as a CUDA graph, and the reasons why not."""

import pytest
import torch

from nas.measure.graph import CannotCapture, capture, first_reason


def test_there_are_no_graphs_on_a_cpu() -> None:
    with pytest.raises(CannotCapture, match="on a GPU, not on cpu"):
        capture(lambda: None, torch.device("cpu"))


def test_the_first_reason_of_a_broken_recording_is_told() -> None:
    def broken() -> None:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError) as caught:
        broken()
    assert first_reason(caught.value) == "operation not permitted when stream is capturing"
    assert first_reason(RuntimeError()) == "RuntimeError"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_does_the_work_again_and_waiting_cannot_be_recorded() -> None:
    device = torch.device("cuda")
    x = torch.zeros(4, device=device)
    replay = capture(lambda: x.add_(1), device)
    x.zero_()
    for _ in range(3):
        replay()
    assert x.tolist() == [3.0] * 4
    with pytest.raises(CannotCapture):
        capture(lambda: x.sum().item(), device)
    assert (x + 1).tolist() == [4.0] * 4
