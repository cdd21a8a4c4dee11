"""What can be promised about speed without a clock: how many kernels a step starts on a GPU, and that it never waits."""
import pytest

import benchmark


@pytest.fixture
def per_step(count):
    """Kernels started and waits of the host in the second step of a workload."""
    def measure(workload):
        step = benchmark.WORKLOADS[workload](benchmark.tinygen_library())
        step()
        launches, syncs = count.launches, count.syncs
        step()
        return count.launches - launches, count.syncs - syncs
    return measure


def test_a_step_of_flow_matching_starts_at_most_45_kernels(per_step):
    assert per_step("cfm")[0] <= 45


@pytest.mark.parametrize("workload", ["ae", "vae", "gan", "wgan_gp", "ddpm", "cfm", "unet"])
def test_no_step_makes_the_host_wait(workload, per_step):
    assert per_step(workload)[1] == 0
