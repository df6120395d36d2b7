"""The association's own thread never takes an answer that somebody waits for."""

import threading

from pynetdicom.association import Association

from dicom_node.deliver.turns import Checkpoint


def test_a_thread_that_was_let_go_does_not_pass_once_it_is_held_again() -> None:
    checkpoint, passed, stop = Checkpoint(), 0, False

    def reactor() -> None:
        nonlocal passed
        while not stop:
            checkpoint.wait()
            passed += 1

    thread = threading.Thread(target=reactor)
    thread.start()
    for _ in range(300):
        assert checkpoint.hold(10.0)
        before = passed
        # let go and held again at once: it may pass in between, and not afterwards
        checkpoint.set()
        assert checkpoint.hold(10.0)
        settled = passed
        assert settled >= before
        assert not checkpoint._open
        assert passed == settled
        checkpoint.set()
    stop = True
    checkpoint.set()
    thread.join(10.0)
    assert not thread.is_alive()
    assert passed


def test_who_never_comes_is_not_waited_for() -> None:
    assert not Checkpoint().hold(0.01)


def test_pynetdicom_still_waits_there() -> None:
    used = set(Association._run_reactor.__code__.co_names)
    used |= set(Association.send_c_store.__code__.co_names)
    assert {"_reactor_checkpoint", "wait", "clear", "set"} <= used
