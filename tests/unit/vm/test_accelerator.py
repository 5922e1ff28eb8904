"""Which accelerator guests get."""

from pathlib import Path

import pytest

from tests.vm.lab import accelerator as module
from tests.vm.lab.accelerator import accelerator
from tests.vm.lab.errors import LabError
from tests.vm.lab.kernels import Kernel


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setenv("MDCLUSTER_VM_CACHE", str(tmp_path))
    monkeypatch.delenv(module.CHOICE, raising=False)
    monkeypatch.setattr(module, "KVM", tmp_path / "kvm")
    (tmp_path / "kvm").touch()
    return Kernel("6.1", tmp_path / "linux-image-6.1.0-1-amd64")


@pytest.mark.parametrize("boots", [True, False])
def test_kvm_is_taken_if_a_guest_boots_with_it_and_asked_once(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, boots: bool
) -> None:
    asked: list[Kernel] = []

    def probe(what: Kernel) -> bool:
        asked.append(what)
        return boots

    monkeypatch.setattr(module, "_kvm_boots", probe)

    assert [accelerator(kernel) for _ in range(2)] == ["kvm" if boots else "tcg"] * 2
    assert asked == [kernel]


def test_without_kvm_nothing_is_probed(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "kvm").unlink()

    assert accelerator(kernel) == "tcg"


def test_the_environment_decides(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.CHOICE, "kvm")
    assert accelerator(kernel) == "kvm"
    monkeypatch.setenv(module.CHOICE, "fast")
    with pytest.raises(LabError, match="must be kvm or tcg"):
        accelerator(kernel)
