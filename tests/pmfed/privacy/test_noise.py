"""Secret noise is Gaussian, independent, unpredictable and never handed out twice."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from pmfed.privacy import noise
from pmfed.privacy.noise import LARGEST, SecretSource, SeededSource

RARE = 1e-9  # a right build fails such a check once in a thousand million runs
SOURCES = [SecretSource, lambda: SeededSource(7, "test")]


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("piece", [30, 1_000, 1_024, 1_025, 100_000])
def test_gaussian_has_the_right_distribution(make, piece):
    source = make()
    x = np.concatenate([source.gaussian(piece, 3.0) for _ in range(200_000 // piece)]) / 3.0
    n = len(x)
    assert stats.norm.sf(abs(x.mean()) * np.sqrt(n)) > RARE
    assert min(stats.chi2.cdf((x**2).sum(), n), stats.chi2.sf((x**2).sum(), n)) > RARE
    assert stats.kstest(x, "norm").pvalue > RARE
    for edge in (2.0, 3.0, 4.0):
        for tail in ((x > edge).sum(), (x < -edge).sum()):
            assert stats.binomtest(int(tail), n, stats.norm.sf(edge)).pvalue > RARE
    for lag in (1, 2, piece):
        if lag < n:
            assert stats.norm.sf(abs((x[lag:] * x[:-lag]).sum()) / np.sqrt(n - lag)) > RARE


@pytest.mark.parametrize("make", SOURCES)
def test_uniform_has_the_right_distribution(make):
    source = make()
    for u in (source.uniform(150_000), np.concatenate([source.uniform(40) for _ in range(4_000)])):
        assert u.min() >= 0
        assert u.max() < 1
        assert stats.kstest(u, "uniform").pvalue > RARE


def test_every_word_gives_a_finite_number_and_the_tails_are_those_of_a_gaussian():
    words = np.array([0, 1, 2**64 - 1, 2**64 - 2, 2**63], np.uint64)
    values = noise._normal(words)
    assert np.isfinite(values).all()
    assert abs(values).max() <= LARGEST
    # The smallest words are the far tail: P(|Z| > z) = 2^-64, exactly where a float uniform would have given up.
    assert values[0] == -values[1] == pytest.approx(stats.norm.ppf(2.0**-65), rel=1e-12)
    assert values[4] == pytest.approx(stats.norm.ppf(0.25), rel=1e-12)


def test_the_stream_is_chacha20():
    key = bytes(range(32))
    words = np.concatenate([noise._Keystream(key).words(1_000)])
    plain = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(8_000))
    assert words.tobytes() == plain


def test_a_stream_changes_its_key_before_it_wears_out(monkeypatch):
    monkeypatch.setattr(noise, "_REKEY", 8 * 1_024)
    stream = noise._Keystream(bytes(32))
    words = np.concatenate([stream.words(1_024) for _ in range(8)])
    assert len(set(words.tolist())) == len(words)


@pytest.mark.parametrize("size", [10, 5_000])
def test_no_number_is_handed_out_twice(size):
    source = SecretSource()
    x = np.concatenate([source.gaussian(size, 1.0) for _ in range(40)])
    assert len(set(abs(x).tolist())) == len(x)


def test_two_secret_sources_are_independent():
    a, b = (SecretSource().gaussian(100_000, 1.0) for _ in range(2))
    assert stats.norm.sf(abs((a * b).sum()) / np.sqrt(len(a))) > RARE


@pytest.mark.slow
def test_restarts_differ_even_when_every_seed_is_fixed():
    code = (
        "import random, numpy, torch; random.seed(0); numpy.random.seed(0); torch.manual_seed(0)\n"
        "from pmfed.privacy.noise import SecretSource; print(SecretSource().gaussian(4, 1.0).tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    runs = [subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True) for _ in range(2)]
    assert all(run.returncode == 0 for run in runs)
    assert runs[0].stdout != runs[1].stdout


def test_a_forked_child_does_not_repeat_its_parent():
    source = SecretSource()
    source.gaussian(5, 1.0)  # leaves a pool that the child must not inherit
    source.uniform(5)
    reading, writing = os.pipe()
    source._lock.acquire()  # as if another thread was drawing at the moment of the fork
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that waits for its parent's lock would wait for ever
        numbers = np.concatenate([source.gaussian(20, 1.0), source.uniform(20), source.gaussian(4_000, 1.0)])
        os.write(writing, numbers[:40].tobytes())
        os._exit(0)
    source._lock.release()
    os.close(writing)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reading, 320))
    os.close(reading)
    ours = np.concatenate([source.gaussian(20, 1.0), source.uniform(20)])
    assert len(theirs) == 40
    assert not set(theirs.tolist()) & set(ours.tolist())


def _draw(queue):
    queue.put(SecretSource().gaussian(4, 1.0).tolist())


def test_worker_processes_differ():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_draw, args=(queue,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = queue.get(timeout=20), queue.get(timeout=20)
    for worker in workers:
        worker.join()
    assert first != second


@pytest.mark.parametrize("clone", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("make", SOURCES)
def test_a_source_cannot_be_copied(make, clone):
    with pytest.raises(TypeError, match="repeat its numbers"):
        clone(make())


def test_threads_never_share_numbers():
    source, found = SecretSource(), []

    def draw() -> None:
        for _ in range(300):
            found.append(source.gaussian(30, 1.0))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x = np.concatenate(found)
    assert len(set(abs(x).tolist())) == len(x) == 4 * 300 * 30


def test_seeded_numbers_repeat_and_depend_on_every_part_of_the_context():
    def draw(*context):
        return SeededSource(*context).gaussian(50, 1.0).tolist()

    assert draw(1, "site", 2) == draw(1, "site", 2)
    others = [(2, "site", 2), (1, "site", 3), (1, "site"), (1, "site", "2"), (1, "si", "te", 2), (1, 2, "site")]
    assert len({str(draw(*context)) for context in [(1, "site", 2), *others]}) == len(others) + 1
    assert not SeededSource(1).secret
    assert SecretSource().secret


def test_nonsense_deviations_are_refused():
    source = SecretSource()
    for std in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="standard deviation"):
            source.gaussian(3, std)
    assert source.gaussian(3, 0.0).tolist() == [0.0, 0.0, 0.0]
    assert source.gaussian(0, 1.0).shape == source.uniform(0).shape == (0,)
