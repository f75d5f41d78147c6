"""Random cases for a property, each within its time, and all of them within their memory."""

import atexit
import contextlib
import gc
import os
import re
import shutil
import signal
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, given, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
COMMON = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
settings.register_profile("ci", max_examples=200, derandomize=True, **COMMON)
settings.register_profile("long", max_examples=EXAMPLES or 1, **COMMON)
PROFILE = settings.get_profile("long" if EXAMPLES else "ci")
SECONDS, MEGABYTES, LETTERS = 1, 300, 600  # of work for a case, of growth for a property, of a refusal


def one_sentence(error, *kinds):
    """A refusal is of an expected kind, and says what is wrong in one line of bounded length."""
    assert isinstance(error, kinds), f"{type(error).__name__} is none of {kinds}"
    said = str(error)
    assert len(said.splitlines()) == 1 and 10 < len(said) <= LETTERS and said[-1] in ".?", said


def peak_memory(reset=False) -> float:
    """MB of this process at most, since the last reset where the system can do that."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


def stuck(*_):
    raise AssertionError("it hangs")


def fuzz(**cases):
    """Make a test of a property: run it on many cases, each within its time, and all of them within their memory."""

    def decorate(check):
        seen = dict(count=0, slowest=0.0, case=None)

        @PROFILE
        @given(**cases)
        def run(**case):
            signal.signal(signal.SIGALRM, stuck)
            signal.alarm(20)  # for what waits; what works is counted in seconds of the processor
            gc.disable()  # its pauses over all that hypothesis remembers are no work of ours
            start = time.process_time()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check(**case)
            finally:
                took = time.process_time() - start
                signal.alarm(0)
                gc.enable()
            seen["count"] += 1
            if took > seen["slowest"]:
                seen.update(slowest=took, case=case)
            assert took < SECONDS, f"{took:.2f} s of work"

        def test():
            before = peak_memory(reset=True)
            run()
            grown = peak_memory() - before
            print(
                f"\n{check.__name__}: {seen['count']:,} cases, slowest {1000 * seen['slowest']:.1f} ms "
                f"({' '.join(repr(seen['case']).split())[:160]}), memory grew by {grown:.0f} MB"
            )
            assert seen["count"] >= PROFILE.max_examples * 0.9 and grown < MEGABYTES

        test.__doc__ = check.__doc__
        return test

    return decorate


@cache
def folder() -> Path:
    """A temporary folder for this process."""
    made = Path(tempfile.mkdtemp(prefix="fuzz_"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
