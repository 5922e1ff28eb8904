"""What a command in a guest did."""

from dataclasses import dataclass

SHOWN_MAX = 4000
"""Characters of output that an error shows; the last ones."""


@dataclass(frozen=True, slots=True)
class Result:
    """Exit code (None: killed after its time), output, and what it took."""

    command: str
    rc: int | None
    out: str
    err: str
    took_s: float
    stuck: str = ""
    """Where in the kernel the command hung, if not even SIGKILL ended it."""

    @property
    def ok(self) -> bool:
        return self.rc == 0

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def describe(self) -> str:
        end = f"exit code {self.rc}" if self.rc is not None else "killed, its time was over"
        parts = [f"`{self.command}`: {end} after {self.took_s:.1f} s"]
        if self.stuck:
            parts.append(f"it hangs in the kernel:\n{self.stuck}")
        parts += [text[-SHOWN_MAX:].rstrip() for text in (self.out, self.err) if text.strip()]
        return "\n".join(parts)
