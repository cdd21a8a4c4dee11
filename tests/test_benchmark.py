"""What can be promised about speed without a clock.

How many kernels a step starts on a GPU, and that the host never waits for it.
"""
import pytest

import benchmark


def test_a_step_of_flow_matching_starts_at_most_45_kernels(count):
    kernels, _ = benchmark.per_step("cfm")
    assert kernels <= 45


@pytest.mark.parametrize("workload", ["ae", "vae", "gan", "wgan_gp", "ddpm", "cfm", "unet"])
def test_no_step_makes_the_host_wait(workload, count):
    _, waits = benchmark.per_step(workload)
    assert waits == 0
