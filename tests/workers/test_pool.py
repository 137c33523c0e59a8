"""How many workers run at once, and what they find of the project."""

from __future__ import annotations

import sys

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.remote import RemoteModel
from pytest_fwcompare.workers.specs import Spec
from workers import models

AXES = {"dtype": "float32", "device": "cpu", "mode": "eager"}


class TestPool:
    def test_idle_workers_make_room(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 2)
        names = [f"numpy@{n}" for n in range(3)]
        before = pool.configure(pool.Settings(specs={name: Spec() for name in names}))
        try:
            workers = [pool.current().worker(name) for name in names]
            assert [worker.alive for worker in workers] == [False, True, True]
            assert pool.current().worker(names[1]) is workers[1]
        finally:
            pool.put_back(before)
        assert not any(worker.alive for worker in workers)

    def test_a_worker_in_use_stays(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 2)
        names = [f"numpy@{n}" for n in range(3)]
        before = pool.configure(pool.Settings(specs={name: Spec() for name in names}))
        network = fn.Sequential([fn.Dense(2)], input_shape=(3,))
        try:
            side = open_side(InFramework(network, names[0]), "port", **AXES).side
            pool.current().worker(names[1])
            pool.current().worker(names[2])
            assert side.worker.alive
            side.close()
        finally:
            pool.put_back(before)

    def test_sharers_divide_the_cores(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 16)
        assert pool.Pool(pool.Settings(sharers=4)).most == 4
        assert pool.Pool(pool.Settings(sharers=16)).most == 2

    def test_paths_of_the_project_only(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "path", [str(tmp_path), sys.prefix + "/lib", "/nowhere"])
        assert pool.project_paths() == [str(tmp_path)]


def test_a_remote_model_says_where_it_is():
    assert repr(fwc.in_worker("torch@w", models.tiny)) == "<model in the worker 'torch@w'>"
    assert isinstance(fwc.in_worker("torch", models.tiny), RemoteModel)
