"""MIT's clients at their own SELinux level."""

from dataclasses import dataclass

from tests.e2e.clients import MitClient


@dataclass(frozen=True)
class LabelledClient(MitClient):
    """Runs commands at the level of a container; without a `level`, as the machine's own processes."""

    level: str | None = None

    def argv(self, command: tuple[str, ...]) -> list[str]:
        if self.level is None:
            return list(command)
        return ["runcon", "--type=container_t", f"--range={self.level}", "--", *command]
