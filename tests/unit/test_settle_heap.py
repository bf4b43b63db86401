"""A settled heap keeps the memory of activations: forward passes then cause no page faults.

Without it, a process causes thousands in each pass, or none, by chance: the kernel places its heap at random.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from secateurs.latency import interleave as interleave_module
from secateurs.latency.environment import Environment
from secateurs.latency.timer import Reading

FAULTS = """
import resource
import torch
from secateurs.latency.settle_heap import settle_heap

def passes(number):
    for _ in range(number):
        kept = [torch.ones(2**20)]
        while len(kept) < 5:
            kept.append(kept[-1] + 1)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
settle_heap()
passes(10)
before = faults()
passes(20)
print((faults() - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no limits that move")
def test_passes_cause_no_page_faults_in_a_settled_heap() -> None:
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
        assert float(done.stdout) < 200


def test_every_timing_settles_the_heap_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(interleave_module, "settle_heap", lambda: order.append("settled"))

    def timer(run) -> Reading:
        run()
        return Reading(1.0)

    interleave_module.interleave(
        {"a": lambda: order.append("run")},
        Environment(threads=torch.get_num_threads()),
        seed=0,
        seconds=0,
        rounds=(1, 1),
        timer=timer,
    )
    assert order[0] == "settled"
