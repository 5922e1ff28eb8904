"""The kernel driver against the port's suite, on the kernel that this runs on."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.unit.md.port_suite import PortSuite
from tests.vm.guest.kernel_lab import Disks, KernelLab


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    disks = Disks(tmp_path_factory.mktemp("disks"))
    yield disks
    disks.close()


@pytest.fixture
async def lab(bench: Disks) -> AsyncIterator[KernelLab]:
    lab = KernelLab(bench)
    yield lab
    await lab.close()


class TestKernel(PortSuite):
    """All of the port."""
