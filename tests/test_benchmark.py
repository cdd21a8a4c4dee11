"""What can be promised about speed without a clock: how many kernels a step starts on a GPU, and that it never waits."""
import pytest

import benchmark


def test_a_step_of_flow_matching_starts_at_most_45_kernels(count):
    assert benchmark.per_step("cfm")[0] <= 45


@pytest.mark.parametrize("workload", ["ae", "vae", "gan", "wgan_gp", "ddpm", "cfm", "unet"])
def test_no_step_makes_the_host_wait(workload, count):
    assert benchmark.per_step(workload)[1] == 0
