"""Threads and forked processes."""

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import torch

import machete


def weight_and_x():
    packed = machete.prepack(machete.quantize(torch.randn(512, 512), group_size=64))
    return packed, torch.randn(64, 512, dtype=torch.bfloat16)


def test_threads_share_weights_and_plans():
    packed, x = weight_and_x()
    expected = [machete.linear(x[:m], packed) for m in range(65)]
    with ThreadPoolExecutor(8) as pool:
        for m, result in pool.map(lambda m: (m, machete.linear(x[:m], packed)), [i % 65 for i in range(260)]):
            assert torch.equal(result, expected[m])


def test_results_do_not_depend_on_torchs_threads():
    packed, x = weight_and_x()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(machete.linear(x, packed))
        assert torch.get_num_threads() == count
    assert all(torch.equal(result, results[0]) for result in results)


def test_forked_children_compute():
    """A forked child has no worker threads, and must neither wait for them nor compute anything else."""
    torch.set_num_threads(2)
    packed, x = weight_and_x()
    expected = machete.linear(x, packed)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        again = machete.prepack(machete.quantize(packed.dequantize(), group_size=64))
        os._exit(0 if torch.equal(machete.linear(x, packed), expected) and again.n == 512 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(machete.linear(x, packed), expected)


def _double(packed, x, queue):
    queue.put(machete.linear(x, packed).float().sum().item())


def test_spawned_children_are_given_weights():
    packed, x = weight_and_x()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_double, args=(packed, x, queue))
    child.start()
    assert queue.get(timeout=120) == machete.linear(x, packed).float().sum().item()
    child.join()
    assert child.exitcode == 0
