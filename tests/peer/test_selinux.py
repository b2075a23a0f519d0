"""The policy as libselinux's binding returns it: the checks at the start, and the decisions."""

import errno
import sys

import pytest

from pykcm.peer.selinux import Permission, PolicyUnusableError, SELinuxPolicy, load_policy
from tests.peer.binding import PEER, TARGET, Binding, error

READ, WRITE = Permission.READ, Permission.WRITE


@pytest.fixture
def binding() -> Binding:
    return Binding()


# At start


def refusal(binding: object) -> str:
    with pytest.raises(PolicyUnusableError) as caught:
        SELinuxPolicy(binding)
    return str(caught.value)


@pytest.mark.parametrize("enabled", [0, -1, 2, error(errno.ENOENT)])
def test_binding_that_sees_no_selinux_is_refused(binding: Binding, enabled: int | Exception) -> None:
    """A binding that says that SELinux is disabled is refused, with its name and the remedy."""
    binding.enabled = enabled
    message = refusal(binding)
    assert "install the distribution's binding" in message
    assert "python3-selinux" in message
    if isinstance(enabled, int):
        assert binding.__file__ in message


@pytest.mark.parametrize(
    "name",
    [
        "is_selinux_enabled",
        "avc_open",
        "string_to_security_class",
        "string_to_av_perm",
        "getcon_raw",
        "security_compute_av_raw",
        "security_check_context_raw",
    ],
)
def test_broken_binding_is_refused(binding: Binding, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding without a needed function, or with one that fails, is refused."""

    def fail(*_: object) -> None:
        raise error(errno.EACCES)

    monkeypatch.setattr(Binding, name, fail)
    assert "as a test wants it" in refusal(binding)
    monkeypatch.delattr(Binding, name)
    assert name in refusal(binding)


def test_policy_without_the_class_is_refused(binding: Binding) -> None:
    """A policy that does not know the class is refused: libselinux would allow everything."""
    binding.classes = {}
    assert "no class file" in refusal(binding)


@pytest.mark.parametrize("name", ["read", "write"])
def test_policy_without_a_permission_is_refused(binding: Binding, name: str) -> None:
    """A policy that does not know a permission is refused: libselinux would allow it."""
    del binding.permissions[name]
    assert f"no permission {name} of the class file" in refusal(binding)


def test_daemon_without_decisions_does_not_start(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that gets no decisions from the policy refuses to start, and names the permission."""

    def fail(*_: object) -> None:
        raise error(errno.EACCES)

    monkeypatch.setattr(binding, "security_compute_av_raw", fail)
    message = refusal(binding)
    assert "compute_av" in message
    assert "pykcm_t" in message


def test_policy_uses_the_selinux_module(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding is the module `selinux`."""
    monkeypatch.setitem(sys.modules, "selinux", binding)
    assert load_policy().allows(PEER, TARGET, READ)


def test_missing_module_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the module there is no policy, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "selinux", None)
    with pytest.raises(PolicyUnusableError, match="python3-selinux"):
        load_policy()


# Decisions


@pytest.mark.parametrize(
    ("answer", "allowed"), [(0, True), (error(errno.EACCES), False), (-1, False), (1, False)]
)
def test_only_yes_is_access(binding: Binding, answer: int | Exception, allowed: bool) -> None:
    """The decision is about the class file, and anything except yes means no."""
    binding.answer = answer
    assert SELinuxPolicy(binding).allows(PEER, TARGET, WRITE) is allowed
    assert binding.asked == [(PEER, TARGET, "file", "write")]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT, errno.ENOMEM, errno.EPERM])
def test_failed_decision_is_not_cached(binding: Binding, number: int) -> None:
    """An error other than a denial is no answer, and libselinux is asked again the next time."""
    policy = SELinuxPolicy(binding)
    binding.answer = error(number)
    with pytest.raises(OSError, match="as a test wants it"):
        policy.allows(PEER, TARGET, READ)
    binding.answer = 0
    assert policy.allows(PEER, TARGET, READ)


def test_validity_of_contexts_is_cached(binding: Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validity of a context is cached until another policy is loaded; an error is no answer."""
    policy = SELinuxPolicy(binding)
    assert policy.has_context(PEER)
    assert not policy.has_context(TARGET)
    binding.contexts = {TARGET}
    assert policy.has_context(PEER)
    binding.policies_loaded = 2
    assert not policy.has_context(PEER)
    assert policy.has_context(TARGET)

    def fail(_: str) -> int:
        raise error(errno.EACCES)

    binding.policies_loaded = 3
    monkeypatch.setattr(binding, "security_check_context_raw", fail)
    with pytest.raises(OSError, match="as a test wants it"):
        policy.has_context(TARGET)


def test_decisions_are_cached(binding: Binding) -> None:
    """The library is asked once for each peer, target and permission."""
    policy = SELinuxPolicy(binding)
    for _ in range(3):
        for asked in ((PEER, TARGET, READ), (PEER, TARGET, WRITE), (TARGET, PEER, READ)):
            assert policy.allows(*asked)
    assert len(binding.asked) == 3


@pytest.mark.parametrize("change", ["policy", "mode"])
def test_policy_load_ends_cached_decisions(binding: Binding, change: str) -> None:
    """A load of the policy and a change of the mode take effect at once."""
    policy = SELinuxPolicy(binding)
    assert policy.allows(PEER, TARGET, READ)
    binding.answer = error(errno.EACCES)
    assert policy.allows(PEER, TARGET, READ)
    if change == "policy":
        binding.policies_loaded = 2
    else:
        binding.enforcing = 0
    assert not policy.allows(PEER, TARGET, READ)


@pytest.mark.parametrize("back", [False, True], ids=["stays", "and back"])
def test_decision_during_a_change_is_not_cached(binding: Binding, back: bool) -> None:
    """An answer during a change is not cached, even if the state is the same again afterwards."""
    policy = SELinuxPolicy(binding)

    def permit() -> None:
        binding.enforcing = 0

    binding.while_asked = permit
    assert policy.allows(PEER, TARGET, READ)
    binding.while_asked = lambda: None
    binding.answer = error(errno.EACCES)
    if back:
        binding.enforcing = 1
    assert not policy.allows(PEER, TARGET, READ)


def test_nothing_is_cached_if_changes_cannot_be_seen(binding: Binding) -> None:
    """If changes of the policy cannot be seen, libselinux is asked for every decision."""
    policy = SELinuxPolicy(binding)
    assert policy.allows(PEER, TARGET, READ)
    binding.policies_loaded = error(errno.EINVAL)
    for _ in range(3):
        assert policy.allows(PEER, TARGET, READ)
    binding.answer = error(errno.EACCES)
    assert not policy.allows(PEER, TARGET, READ)
    assert len(binding.asked) == 5


@pytest.mark.parametrize("status", [2, error(errno.EINVAL)])
def test_unusable_policy_gives_no_answers(binding: Binding, status: int | Exception) -> None:
    """If a policy without the class is loaded at run time, there is no answer until another is loaded."""
    policy = SELinuxPolicy(binding)
    assert policy.allows(PEER, TARGET, READ)
    binding.policies_loaded = status
    binding.classes = {}
    for _ in range(2):
        with pytest.raises(PolicyUnusableError):
            policy.allows(PEER, TARGET, READ)
    assert len(binding.asked) == 1
    # Another number than before is right, too.
    binding.classes = {"file": 7}
    assert policy.allows(PEER, TARGET, READ)


def test_number_of_cached_decisions_is_bounded(binding: Binding) -> None:
    """However many labels are used, only a limited number of decisions is cached."""
    policy = SELinuxPolicy(binding)
    for number in range(10_000):
        policy.allows(f"u:r:t:s0:c{number}", TARGET, READ)
    assert len(policy._decisions) <= 4096


# Denials that libselinux says nothing of

ALL = 0xFFFFFFFF
NO_READ_AUDITED = ALL & ~2


@pytest.mark.parametrize(
    ("decision", "enforcing", "permissive"),
    [
        ((4, NO_READ_AUDITED, 0), 1, 0),
        ((4, NO_READ_AUDITED, 0), 0, 1),
        ((4, NO_READ_AUDITED, 1), 1, 1),
        ((4, ALL, 0), 1, None),
        ((6, NO_READ_AUDITED, 0), 1, None),
        ((6, ALL, 0), 1, None),
    ],
    ids=["not audited", "in permissive mode", "of a permissive type", "audited", "allowed", "both"],
)
def test_denial_hidden_by_dontaudit_is_reported_once(
    binding: Binding, decision: tuple[int, int, int], enforcing: int, permissive: int | None
) -> None:
    """A denial that a dontaudit rule hides is reported once, in libselinux's words."""
    messages: list[tuple[int, bytes]] = []
    policy = SELinuxPolicy(binding, lambda kind, message: messages.append((kind, message)))
    binding.decision, binding.enforcing = decision, enforcing
    if permissive == 0:
        binding.answer = error(errno.EACCES)
    for _ in range(2):
        assert policy.allows(PEER, TARGET, READ) is (permissive != 0)
    text = (
        f"avc:  denied  {{ read }} for  scontext={PEER} tcontext={TARGET} tclass=file permissive={permissive}"
    )
    assert messages == ([] if permissive is None else [(3, text.encode())])


@pytest.mark.parametrize("failure", [error(errno.EINVAL), TypeError()])
@pytest.mark.parametrize(("answer", "allowed"), [(0, True), (error(errno.EACCES), False)])
def test_failed_report_does_not_change_the_decision(
    binding: Binding, failure: Exception, answer: int | Exception, allowed: bool
) -> None:
    """Whatever fails in a report, the decision stays the same."""

    def fail(kind: int, message: bytes) -> None:
        raise failure

    policy = SELinuxPolicy(binding, fail)
    binding.answer, binding.decision = answer, (0, 0, 0)
    assert policy.allows(PEER, TARGET, READ) is allowed
    binding.failure = failure
    assert policy.allows(PEER, TARGET, WRITE) is allowed
