"""Two examples for each command of pykcmctl: for its --help, and for pykcmctl(8)."""

from typing import NamedTuple


class Example(NamedTuple):
    """A command line without `pykcmctl`, and its purpose."""

    purpose: str
    arguments: str


# Lines fit a terminal of 60 columns.
EXAMPLES = {
    "": (
        Example("All ccaches, and when they expire", "list"),
        Example("What is wrong on this host", "doctor"),
    ),
    "list": (
        Example("Who has tickets that end within the hour", "list --expiring 1h --sort expires"),
        Example("All about the ccaches of alice", "list --user alice --wide"),
    ),
    "show": (
        Example("The tickets of a ccache, with dates", "show KCM:1000 --times"),
        Example("The services of its tickets", "show KCM:1000 | grep ^ticket | cut -f2"),
    ),
    "destroy": (
        Example("All ccaches of alice, after a question", "destroy --user alice"),
        Example("All expired ccaches, without one", "destroy --expired --yes"),
    ),
    "reap": (
        Example("Remove long-expired ccaches now", "reap"),
        Example("The same, if the daemon doubts a right clock", "reap --trust-clock"),
    ),
    "switch": (
        Example("Make one of your ccaches the default", "switch KCM:1000:work"),
        Example("The same for another user, as root", "switch --user alice KCM:1000:work"),
    ),
    "setup": (
        Example("What it would do for a pykcm from pip", "setup"),
        Example("Install users and units, start sockets", "setup --apply"),
    ),
    "renew": (
        Example("Renew the TGT of your default ccache now", "renew"),
        Example("Leave a ccache out of renewal", "renew --off KCM:1000:work"),
    ),
    "export": (
        Example("All ccaches, encrypted for a passphrase", "export /root/ccaches.pykcm"),
        Example("The ccaches of alice, for an age key", "export --user alice --recipient age1... x"),
    ),
    "import": (
        Example("A file of sshd becomes one of your ccaches", "import FILE:/tmp/krb5cc_1000_x"),
        Example("See what an export would change", "import --dry-run /root/ccaches.pykcm"),
    ),
    "migrate": (
        Example("See what would come over from sssd-kcm", "migrate --from sssd --dry-run"),
        Example("All users' ccache files", "migrate --from files"),
    ),
    "backup": (
        Example("Copy the database while it is in use", "backup /var/backups/pykcm.db"),
        Example("The same, over an older copy", "backup --force /var/backups/pykcm.db"),
    ),
    "rekey": (
        Example("Encrypt the database with a new key", "rekey"),
        Example("Encrypt it with a key of your own", "rekey --new-key /root/pykcm.key"),
    ),
    "store": (
        Example("What hosts need to share a database", "store check"),
        Example("The tables of that database, once", "store init --role pykcm"),
    ),
    "store init": (
        Example("Make the tables, for daemons of role pykcm", "store init --role pykcm"),
        Example("The statements, for the administrator", "store init --sql --role pykcm"),
    ),
    "store check": (
        Example("Whether daemons can use the database", "store check"),
        Example("The same for a configuration to come", "store check --config next.toml"),
    ),
    "store upgrade": (
        Example("After an upgrade of pykcm on all hosts", "store upgrade"),
        Example("As a role that may change tables", "store upgrade --admin 'user=postgres'"),
    ),
    "store copy": (
        Example("From one store to another", "store copy pykcm.toml next.toml"),
        Example("And back", "store copy next.toml pykcm.toml"),
    ),
    "stats": (
        Example("Counts and durations since the start", "stats"),
        Example("The number of ccaches, for a script", "stats --json | jq .ccaches"),
    ),
    "metrics": (
        Example("Print the metrics once", "metrics"),
        Example("Serve them over HTTP", "metrics --listen 127.0.0.1:9090"),
    ),
    "watch": (
        Example("What happens to the ccaches of alice", "watch --user alice"),
        Example("Everything, also after a restart, for a log", "watch --json --reconnect"),
    ),
    "trace": (
        Example("What the programs of alice ask for", "trace --user alice"),
        Example("Requests that fail, in a pipe", "trace --json | jq 'select(.code != \"OK\")'"),
    ),
    "doctor": (
        Example("Look for problems on this host", "doctor"),
        Example("Only problems and warnings, for a timer", "doctor --quiet"),
    ),
    "completion": (
        Example("For bash, from the next login on", "completion bash >>~/.bash_completion"),
        Example("A file for zsh's folder of functions", "completion zsh >_pykcmctl"),
    ),
}


def help_text(command: str) -> str:
    """The end of the command's --help, whose first character makes click keep its lines."""
    lines = [line for each in EXAMPLES[command] for line in (f"  # {each.purpose}", f"  {_typed(each)}")]
    return "\n".join(["\b", "Examples:", *lines])


def man_text(command: str) -> str:
    """The examples in reStructuredText."""
    return "".join(f"{each.purpose}::\n\n    {_typed(each)}\n\n" for each in EXAMPLES[command])


def _typed(example: Example) -> str:
    return f"pykcmctl {example.arguments}"
