"""What can go wrong in the lab; each error names the guest it is about."""

from tests.vm.lab.result import Result


class LabError(AssertionError):
    """The lab could not do what it was asked to do."""


class GuestDeadError(LabError):
    """The guest's QEMU has ended, so nobody will answer."""


class LateError(LabError):
    """No answer in time: the guest is frozen, its kernel hangs, or it is only slow."""


class CommandError(LabError):
    """A command in a guest ended with another code than 0, or not in time."""

    def __init__(self, guest: str, result: Result) -> None:
        super().__init__(f"{guest}: {result.describe()}")
        self.guest = guest
        self.result = result
