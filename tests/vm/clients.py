"""MIT's clients at their own SELinux level."""

from dataclasses import dataclass

from tests.e2e.clients import MitClient


@dataclass(frozen=True)
class LabelledClient(MitClient):
    """Runs commands as a container of `level` does, or as the machine's own processes where it is None."""

    level: str | None = None

    def argv(self, command: tuple[str, ...]) -> list[str]:
        if self.level is None:
            return list(command)
        return ["runcon", "--type=container_t", f"--range={self.level}", "--", *command]
