"""The ledger: what it admits, what it remembers, and what it notices."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pmfed_client.ledger.ledger as module
import pytest
from pmfed_client.ledger import store
from pmfed_client.ledger.ledger import Entry, Ledger, cohorts
from pmfed_client.ledger.show import export

from pmfed.errors import BudgetError, LedgerError
from pmfed.methods import plan_for
from pmfed.privacy.accounting import Release, epsilon, rdp_epsilon
from pmfed.study import Study

STEP = Entry("step", 0.2, 3.0, 1.0, 20)
STATISTICS = Entry("statistics", 1.0, 8.0, 1.0, 1)
SCORES = Entry("evaluation", 1.0, 4.0, 1.0, 3)
PLAN = {"train": (STATISTICS, STEP), "held-out": (SCORES,)}
DELTA = 1e-5
WIDE = (50.0, DELTA)


def eps(*releases: Release) -> float:
    return epsilon(releases, DELTA)


def filtered(*releases: Release) -> float:
    return rdp_epsilon(releases, DELTA)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", timeout=0.5)


def filled(path: Path, runs: int = 2) -> None:
    with Ledger(path) as ledger:
        for number in range(runs):
            ledger.reserve(f"run-{number}", "study", PLAN, WIDE)
            ledger.charge(f"run-{number}", "statistics", 0, 0, 8.0)
            for round in range(3):
                ledger.charge(f"run-{number}", "step", round, 0, 3.0)
            ledger.finish(f"run-{number}")


# -- what it remembers ------------------------------------------------------------------------------------------------


def test_a_run_reserves_charges_and_gets_back_only_what_it_never_computed(ledger: Ledger) -> None:
    ledger.reserve("run", "study", PLAN, WIDE)
    assert ledger.spent("train", DELTA) == 0.0
    assert ledger.spent("train", DELTA, reserved=True) == eps(Release(0.2, 3.0, 20), Release(1.0, 8.0, 1))
    ledger.charge("run", "statistics", 0, 0, 8.0)
    for round in range(7):
        ledger.charge("run", "step", round, 0, 3.0)
    ledger.charge("run", "evaluation", 6, 0, 4.0)
    assert ledger.releases("train") == (Release(0.2, 3.0, 7), Release(1.0, 8.0, 1))
    assert ledger.releases("held-out") == (Release(1.0, 4.0, 1),)
    ledger.finish("run")
    assert ledger.spent("train", DELTA, reserved=True) == eps(Release(0.2, 3.0, 7), Release(1.0, 8.0, 1))
    kinds = [(row.kind, row.what, row.count) for row in ledger.rows() if row.kind != "charge"]
    assert kinds[3:] == [("refund", "evaluation", 2), ("refund", "step", 13), ("finish", None, None)]
    before = ledger.verify()
    ledger.finish("run")
    assert ledger.verify() == before == 3 + 9 + 3


def test_everything_is_remembered_by_the_next_process(ledger: Ledger) -> None:
    for run in ("one", "two"):
        ledger.reserve(run, "study", PLAN, WIDE)
        for round in range(5):
            ledger.charge(run, "step", round, 0, 3.0)
    ledger.close()
    again = Ledger(ledger.path)
    assert again.releases("train") == (Release(0.2, 3.0, 10),)
    assert again.releases("train", run="two") == (Release(0.2, 3.0, 5),)
    assert again.releases("train", reserved=True) == (Release(0.2, 3.0, 40), Release(1.0, 8.0, 2))
    assert again.spent("train", DELTA) == eps(Release(0.2, 3.0, 10))


def test_the_receipt_says_what_the_run_was_charged(ledger: Ledger) -> None:
    ledger.reserve("other", "study", PLAN, WIDE)
    ledger.reserve("run", "study", PLAN, WIDE)
    ledger.charge("run", "step", 0, 0, 3.0)
    ledger.charge("run", "evaluation", 0, 0, 4.0)
    ledger.finish("run")
    receipt = ledger.receipt("run")
    rows = [row for row in ledger.rows() if row.run == "run"]
    train, held_out = eps(Release(0.2, 3.0, 1)), eps(Release(1.0, 4.0, 1))
    assert receipt == {
        "run": "run", "study": "study", "finished": True, "delta": DELTA, "epsilon": max(train, held_out),
        "charges": {"step": 1, "evaluation": 1, "statistics": 0}, "cohorts": {"train": train, "held-out": held_out},
        "first": rows[0].hash, "last": rows[-1].hash, "rows": len(rows), "head": rows[-1].hash,
    }  # fmt: skip
    assert json.loads(json.dumps(receipt)) == receipt


def test_a_clock_that_jumps_back_changes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards:
        now_is = datetime.now(UTC)

        @classmethod
        def now(cls, zone: object) -> datetime:
            cls.now_is -= timedelta(days=400)
            return cls.now_is

    monkeypatch.setattr(module, "datetime", Backwards)
    filled(ledger.path)
    times = [row.time for row in ledger.rows()]
    assert times == sorted(times, reverse=True)
    assert ledger.releases("train") == (Release(0.2, 3.0, 6), Release(1.0, 8.0, 2))
    assert ledger.verify() == len(times)


def test_export_is_the_chain_itself(ledger: Ledger, tmp_path: Path) -> None:
    filled(ledger.path)
    export(ledger, tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, ledger.verify() + 1))
    assert all(after["previous"] == before["hash"] for before, after in pairwise(lines))
    with pytest.raises(LedgerError, match="cannot be written"):
        export(ledger, tmp_path / "absent" / "rows.jsonl")


def test_every_commit_is_synced_to_the_disk(ledger: Ledger) -> None:
    """A killed process cannot show this, only a cut of the power: the settings of the open file must."""
    ledger.verify()
    db = ledger._store._db
    assert db is not None
    assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -- what it admits ---------------------------------------------------------------------------------------------------


def test_a_run_beyond_the_budget_is_refused_with_the_numbers(ledger: Ledger) -> None:
    plan = {"train": (STEP,)}
    one, two = filtered(Release(0.2, 3.0, 20)), filtered(Release(0.2, 3.0, 40))
    budget = ((one + two) / 2, DELTA)
    ledger.reserve("first", "study", plan, budget)
    for round in range(20):
        ledger.charge("first", "step", round, 0, 3.0)
    ledger.finish("first")
    rows = ledger.verify()
    with pytest.raises(BudgetError) as caught:
        ledger.reserve("second", "study", plan, budget)
    for number in (one, two, budget[0]):
        assert f"{number:.4f}" in caught.value.what
    assert "Nothing was released." in caught.value.what
    assert ledger.verify() == rows
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.charge("second", "step", 0, 0, 3.0)


def test_the_joint_epsilon_decides_not_the_sum(ledger: Ledger) -> None:
    one, two = filtered(Release(0.2, 3.0, 20)), filtered(Release(0.2, 3.0, 40))
    assert two < 2 * one
    for run in ("first", "second"):
        ledger.reserve(run, "study", {"train": (STEP,)}, (two, DELTA))


def test_a_first_run_is_bounded_tightly_and_a_later_one_by_the_filter(ledger: Ledger) -> None:
    tight, loose = eps(Release(0.2, 3.0, 40)), filtered(Release(0.2, 3.0, 40))
    assert tight < loose
    ledger.reserve("first", "study", {"train": (STEP,)}, (eps(Release(0.2, 3.0, 20)), DELTA))
    with pytest.raises(BudgetError):
        ledger.reserve("second", "study", {"train": (STEP,)}, ((tight + loose) / 2, DELTA))
    ledger.reserve("second", "study", {"train": (STEP,)}, (loose, DELTA))


def test_a_run_in_progress_counts_in_full_until_it_is_finished(ledger: Ledger) -> None:
    budget = (eps(Release(0.2, 3.0, 30)), DELTA)
    ledger.reserve("first", "study", {"train": (STEP,)}, budget)
    ledger.charge("first", "step", 0, 0, 3.0)
    with pytest.raises(BudgetError, match="Unfinished runs: 'first'"):
        ledger.reserve("second", "study", {"train": (STEP,)}, budget)
    ledger.finish("first")
    ledger.reserve("second", "study", {"train": (STEP,)}, budget)


def test_retries_use_the_reservation_up_and_nothing_exceeds_it(ledger: Ledger) -> None:
    ledger.reserve("run", "study", {"train": (STEP,)}, (eps(Release(0.2, 3.0, 50)), DELTA))
    for attempt in range(20):
        ledger.charge("run", "step", 0, attempt, 3.0)
    with pytest.raises(BudgetError, match="0 of the 20 reserved"):
        ledger.charge("run", "step", 1, 0, 3.0)  # the site's budget would allow it; the study's promise does not
    assert ledger.releases("train", reserved=True) == (Release(0.2, 3.0, 20),)


def test_less_noise_than_reserved_is_refused(ledger: Ledger) -> None:
    ledger.reserve("run", "study", {"train": (STEP,)}, (eps(Release(0.2, 3.0, 20), Release(0.2, 2.0, 9)), DELTA))
    ledger.charge("run", "step", 0, 0, 3.0 * (1 - 1e-14))
    ledger.charge("run", "step", 1, 0, 3.5)
    with pytest.raises(BudgetError, match="noise multiplier 2"):
        ledger.charge("run", "step", 3, 0, 2.0)
    with pytest.raises(LedgerError, match="not a private release"):
        ledger.charge("run", "step", 3, 0, 0.0)
    ledger.finish("run")
    assert ledger.releases("train", reserved=True) == (Release(0.2, 3.0, 1), Release(0.2, 3.5, 1))


def test_several_local_steps_are_charged_at_once(ledger: Ledger) -> None:
    ledger.reserve("run", "study", {"train": (STEP,)}, (eps(Release(0.2, 3.0, 20)), DELTA))
    for round in range(3):
        ledger.charge("run", "step", round, 0, 3.0, count=6)
    assert ledger.releases("train") == (Release(0.2, 3.0, 18),)
    with pytest.raises(BudgetError):
        ledger.charge("run", "step", 3, 0, 3.0, count=6)
    ledger.charge("run", "step", 3, 0, 3.0, count=2)


def test_the_two_cohorts_of_a_split_do_not_add_up_but_those_of_two_splits_do(ledger: Ledger) -> None:
    step, scores = Release(0.2, 3.0, 20), Release(1.0, 4.0, 3)
    ledger.reserve("run", "study", {"train:a": (STEP,), "held-out:a": (SCORES,)}, WIDE)
    assert ledger.releases("train:a", reserved=True) == (step,)
    assert ledger.releases("held-out:a", reserved=True) == (scores,)
    assert ledger.releases("train:b", reserved=True) == (step, scores)
    both = (max(eps(step), eps(scores)), DELTA)
    with pytest.raises(BudgetError):
        ledger.reserve("other", "study", {"held-out:b": (Entry("evaluation", 1.0, 40.0, 1.0, 1),)}, both)


def test_a_budget_of_nothing_admits_nothing(ledger: Ledger) -> None:
    for budget in ((0.0, 0.0), (0.0, DELTA), (math.inf, DELTA), (math.nan, DELTA), (5.0, 0.0), (5.0, 1.0)):
        with pytest.raises(BudgetError, match="no budget"):
            ledger.reserve("run", "study", PLAN, budget)
    with pytest.raises(LedgerError, match="reserves nothing"):
        ledger.reserve("run", "study", {"train": ()}, WIDE)
    with pytest.raises(LedgerError, match="planned twice"):
        ledger.reserve("run", "study", {"train": (STEP, STEP)}, WIDE)
    assert ledger.verify() == 0


@pytest.mark.parametrize(
    "values",
    [(0.0, 3.0, 1.0, 1), (1.1, 3.0, 1.0, 1), (0.2, 0.0, 1.0, 1), (0.2, math.nan, 1.0, 1), (0.2, 3.0, math.inf, 1)],
)
def test_an_entry_must_be_a_private_release(values: tuple[float, float, float, int]) -> None:
    with pytest.raises(LedgerError, match="not a private release"):
        Entry("step", *values)


def test_going_on_after_a_crash_reserves_once_and_another_plan_is_refused(ledger: Ledger) -> None:
    ledger.reserve("run", "study", PLAN, WIDE)
    rows = ledger.verify()
    Ledger(ledger.path).reserve("run", "study", PLAN, WIDE)
    assert ledger.verify() == rows
    for study, plan in (("other", PLAN), ("study", {"train": PLAN["train"]}), ("study", {"train": (SCORES, STEP)})):
        with pytest.raises(LedgerError, match="another plan"):
            ledger.reserve("run", study, plan, WIDE)
    ledger.finish("run")
    with pytest.raises(LedgerError, match="finished"):
        ledger.reserve("run", "study", PLAN, WIDE)


def test_a_changed_budget_is_admitted_anew_and_the_plan_counts_once(ledger: Ledger) -> None:
    one = eps(Release(0.2, 3.0, 20))
    plan = {"train": (STEP,)}
    ledger.reserve("run", "study", plan, (one, DELTA))
    with pytest.raises(BudgetError):
        ledger.reserve("run", "study", plan, (one * 0.9, DELTA))
    ledger.reserve("run", "study", plan, (one * 1.1, DELTA))
    for round in range(20):
        ledger.charge("run", "step", round, 0, 3.0)
    with pytest.raises(BudgetError):
        ledger.charge("run", "step", 19, 1, 3.0)
    assert Ledger(ledger.path).releases("train", reserved=True) == (Release(0.2, 3.0, 20),)


def test_an_attempt_is_charged_once_and_rounds_never_go_back(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no reservation at this site"):
        ledger.charge("run", "step", 0, 0, 3.0)
    ledger.reserve("run", "study", {"train": (STEP,)}, WIDE)
    with pytest.raises(LedgerError, match="no reservation for 'statistics'"):
        ledger.charge("run", "statistics", 0, 0, 8.0)
    ledger.charge("run", "step", 3, 0, 3.0)
    ledger.charge("run", "step", 3, 2, 3.0)
    for round, attempt, problem in ((3, 2, "charged before"), (3, 1, "step back"), (2, 9, "step back")):
        with pytest.raises(LedgerError, match=problem):
            Ledger(ledger.path).charge("run", "step", round, attempt, 3.0)
    ledger.finish("run")
    with pytest.raises(LedgerError, match="finished"):
        ledger.charge("run", "step", 4, 0, 3.0)
    assert ledger.releases("train") == (Release(0.2, 3.0, 2),)


def test_a_charge_within_the_reservation_computes_no_epsilon(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.reserve("run", "study", PLAN, WIDE)
    monkeypatch.delattr(module, "epsilon")
    for round in range(20):
        ledger.charge("run", "step", round, 0, 3.0)


# -- several users ----------------------------------------------------------------------------------------------------


def test_two_handles_see_each_others_charges(ledger: Ledger) -> None:
    other = Ledger(ledger.path)
    ledger.reserve("run", "study", PLAN, WIDE)
    other.charge("run", "step", 0, 0, 3.0)
    with pytest.raises(LedgerError, match="charged before"):
        ledger.charge("run", "step", 0, 0, 3.0)
    assert ledger.releases("train") == other.releases("train")


def test_threads_share_one_ledger(ledger: Ledger) -> None:
    runs = [f"run-{number}" for number in range(4)]
    for run in runs:
        ledger.reserve(run, "study", PLAN, WIDE)

    def work(run: str) -> None:
        for round in range(10):
            ledger.charge(run, "step", round, 0, 3.0)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.releases("train") == (Release(0.2, 3.0, 40),)
    ledger.verify()


def test_both_sides_of_a_fork_may_go_on(ledger: Ledger) -> None:
    for run in ("parent", "child"):
        ledger.reserve(run, "study", PLAN, WIDE)
    child = os.fork()
    run = "parent" if child else "child"
    try:
        for round in range(20):
            ledger.charge(run, "step", round, 0, 3.0)
    except BaseException:
        if not child:
            os._exit(1)
        raise
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.releases("train", run="child") == ledger.releases("train", run="parent") == (Release(0.2, 3.0, 20),)
    ledger.verify()


def test_a_fork_waits_for_the_transaction_of_another_thread(ledger: Ledger) -> None:
    """Else the child inherits a lock nobody can give back, and half a transaction."""
    ledger.reserve("run", "study", PLAN, WIDE)
    inside = threading.Event()

    def hold() -> None:
        with ledger._transaction(write=True):
            inside.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(5)
    child = os.fork()
    if not child:
        signal.alarm(5)
        status = 1
        try:
            status = 2 if ledger._store._db is not None else 3
            ledger.charge("run", "step", 0, 0, 3.0)
            status = 0 if status == 3 else status
        finally:
            os._exit(status)
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    ledger.charge("run", "step", 1, 0, 3.0)
    assert ledger.releases("train") == (Release(0.2, 3.0, 2),)


def test_a_file_that_is_swapped_while_in_use_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    filled(ledger.path)
    copy = tmp_path / "copy.db"
    shutil.copy(ledger.path, copy)
    ledger.reserve("run", "study", PLAN, WIDE)
    os.replace(copy, ledger.path)
    with pytest.raises(LedgerError, match="moved or replaced"):
        ledger.charge("run", "step", 0, 0, 3.0)


# -- what it notices --------------------------------------------------------------------------------------------------


def spoil(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER rows_stay")
        db.execute("DROP TRIGGER rows_keep")
        for statement in statements:
            db.execute(statement)
    db.close()


def test_rows_can_be_neither_changed_nor_deleted_by_accident(ledger: Ledger) -> None:
    filled(ledger.path)
    with sqlite3.connect(ledger.path) as db:
        for statement in ("DELETE FROM rows", "UPDATE rows SET count = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="rows"):
                db.execute(statement)
    db.close()
    ledger.verify()


TAMPERED = [
    ("UPDATE rows SET noise_multiplier = 30.0 WHERE seq = 6", "row 6 was changed"),
    ("UPDATE rows SET count = 0 WHERE seq = 5", "row 5 was changed"),
    ("UPDATE rows SET time = 'never' WHERE seq = 1", "row 1 was changed"),
    ("UPDATE rows SET hash = 'ab' WHERE seq = 5", "row 5 was changed"),
    ("UPDATE rows SET previous = 'ab' WHERE seq = 5", "row 5 does not follow row 4"),
    ("DELETE FROM rows WHERE seq = 6", "row 6 is missing"),
    ("DELETE FROM rows WHERE seq = 1", "row 1 is missing"),
    ("DELETE FROM rows WHERE seq > 9", "row 10 is missing"),
    ("DELETE FROM rows", "row 1 is missing"),
    ("UPDATE meta SET rows = 3", "row 20 is not the one that was written last"),
    ("DELETE FROM meta", "count of rows is gone|ledger of schema None"),
    ("DROP TABLE rows", "damaged"),
    ("UPDATE meta SET schema = 3", "schema 3; this pmfed knows schema 2"),
    ("UPDATE meta SET schema = 1", "damaged, or no ledger"),
    ("UPDATE meta SET schema = 0", "schema 0; this pmfed knows schema 2"),
]


@pytest.mark.parametrize(("statement", "message"), TAMPERED, ids=[statement for statement, _ in TAMPERED])
def test_a_tampered_file_stops_everything(tmp_path: Path, statement: str, message: str) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    assert Ledger(path).verify() == 20
    spoil(path, statement)
    before = (tmp_path / "ledger.head").read_bytes()
    uses: list[Callable[[Ledger], object]] = [
        Ledger.verify,
        lambda ledger: ledger.reserve("new", "study", PLAN, WIDE),
        lambda ledger: ledger.charge("run-0", "step", 5, 0, 3.0),
        lambda ledger: ledger.spent("train", DELTA),
        lambda ledger: list(ledger.rows()),
        lambda ledger: ledger.finish("run-0"),
    ]
    for use in uses:
        for ledger in (fresh := Ledger(path), fresh):
            with pytest.raises(LedgerError, match=message) as caught:
                use(ledger)
            assert "Nothing was released." in caught.value.what
            assert caught.value.remedy
    assert (tmp_path / "ledger.head").read_bytes() == before


def test_rows_cut_off_together_with_their_count_are_noticed_by_the_anchor(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    cut = "UPDATE meta SET rows = 10, head = (SELECT hash FROM rows WHERE seq = 10)"
    spoil(path, "DELETE FROM rows WHERE seq > 10", cut)
    with pytest.raises(
        LedgerError, match=r"row 11 is missing: ledger\.head tells of 20 rows, so this is an older copy"
    ):
        Ledger(path).verify()


def test_an_older_copy_put_back_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, runs=1)
    shutil.copy(path, tmp_path / "old.db")
    with Ledger(path) as ledger:
        ledger.reserve("run", "study", PLAN, WIDE)
    os.replace(tmp_path / "old.db", path)
    with pytest.raises(LedgerError, match="older copy"):
        Ledger(path).reserve("other", "study", PLAN, WIDE)


def test_an_older_copy_that_was_used_again_is_noticed(tmp_path: Path) -> None:
    """More rows than the anchor tells of, but not the same ones."""
    path = tmp_path / "ledger.db"
    filled(path, runs=1)
    for name in ("ledger.db", "ledger.head"):
        (tmp_path / "side").mkdir(exist_ok=True)
        shutil.copy(tmp_path / name, tmp_path / "side" / name)
    with Ledger(path) as ledger:
        ledger.reserve("run", "study", PLAN, WIDE)
    with Ledger(tmp_path / "side" / "ledger.db") as ledger:
        for run in ("a", "b", "c"):
            ledger.reserve(run, "study", PLAN, WIDE)
    os.replace(tmp_path / "side" / "ledger.db", path)
    with pytest.raises(LedgerError, match=r"row 13 is not the one ledger\.head tells of"):
        Ledger(path).verify()


def test_a_ledger_that_was_deleted_emptied_or_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"the ledger is gone, but ledger\.head says there was one"):
            Ledger(path).reserve("run", "study", PLAN, WIDE)
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="the ledger is gone"):
        Ledger(path).verify()
    path.unlink()
    (tmp_path / "other").mkdir()
    filled(tmp_path / "other" / "ledger.db", runs=3)
    shutil.copy(tmp_path / "other" / "ledger.db", path)
    with pytest.raises(LedgerError, match=r"row 20 is not the one ledger\.head tells of"):
        Ledger(path).verify()


def test_a_missing_or_spoiled_anchor_is_noticed(tmp_path: Path) -> None:
    path, anchor = tmp_path / "ledger.db", tmp_path / "ledger.head"
    filled(path)
    anchor.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.head, which belongs beside it, is missing"):
        Ledger(path).verify()
    for text in ("", "{}", "[1]", '{"rows": "1", "hash": "a"}', '{"rows": -1, "hash": "a"}', "\udcff"):
        anchor.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(LedgerError, match=r"ledger\.head: "):
            Ledger(path).verify()


def test_an_anchor_that_is_behind_is_brought_up(tmp_path: Path) -> None:
    """A crash between a commit and the anchor leaves it behind: no error, and renewed at the next use."""
    path, anchor = tmp_path / "ledger.db", tmp_path / "ledger.head"
    filled(path, runs=1)
    before = anchor.read_bytes()
    with Ledger(path) as ledger:
        ledger.reserve("run", "study", PLAN, WIDE)
    after = anchor.read_bytes()
    anchor.write_bytes(before)
    Ledger(path).spent("train", DELTA)
    assert anchor.read_bytes() == after != before


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("patients,dose\n" * 500)
    with pytest.raises(LedgerError, match="damaged, or no ledger"):
        Ledger(path).verify()
    assert path.read_text() == "patients,dose\n" * 500
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE visits (id)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="no pmfed ledger"):
        Ledger(path).verify()
    assert path.read_bytes() == before
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path / "absent" / "ledger.db").verify()


def test_flipped_bytes_are_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path)
    whole, generator, noticed = path.read_bytes(), random.Random(5), 0
    rows = list(Ledger(path).rows())
    for _ in range(60):
        damaged = bytearray(whole)
        for position in generator.sample(range(len(whole)), 40):
            damaged[position] ^= 1 << generator.randrange(8)
        for extra in ("ledger.db-wal", "ledger.db-shm"):
            (tmp_path / extra).unlink(missing_ok=True)
        path.write_bytes(damaged)
        try:
            with Ledger(path) as ledger:
                assert ledger.verify() == len(rows)
                assert list(ledger.rows()) == rows
        except LedgerError:
            noticed += 1
    assert noticed > 30


# -- names of cohorts, plans ------------------------------------------------------------------------------------------

STUDY = Study.model_validate(
    {
        "study": {"name": "s", "title": "S"},
        "cohort": {"table": "patients", "expected_patients": 1000},
        "outcome": {"column": "y", "task": "binary", "classes": ("no", "yes")},
        "modalities": {
            "m": {
                "kind": "table",
                "table": "patients",
                "features": {"age": {"type": "numeric", "minimum": 0, "maximum": 120}},
            }
        },
        "training": {"rounds": 20, "optimizer": {"learning_rate": 0.1}},
        "privacy": {"epsilon": 2.0, "delta": 1e-4},
    }
)


def test_cohort_names_change_with_whatever_moves_a_patient_to_the_other_side() -> None:
    same = STUDY.replace(privacy={"epsilon": 1.0}, training={"rounds": 5}, evaluation={"every": 3})
    assert cohorts(STUDY) == cohorts(same)
    others = [
        cohorts(STUDY, fold="fold 2"),
        cohorts(STUDY.replace(evaluation={"split_key": "other"})),
        cohorts(STUDY.replace(evaluation={"test_fraction": 0.3})),
        cohorts(STUDY.replace(evaluation={"split_column": "set"})),
        cohorts(STUDY.replace(cohort={"patient": "mrn"})),
    ]
    assert len({tuple(one.values()) for one in (cohorts(STUDY), *others)}) == 6
    by_column = STUDY.replace(evaluation={"split_column": "set"})
    assert cohorts(by_column) == cohorts(by_column.replace(evaluation={"split_key": "other"}))


def test_a_reserved_plan_costs_what_it_promises(ledger: Ledger) -> None:
    """Not a hair more: else a study of epsilon 2 would not fit a budget of 2."""
    plan = plan_for(STUDY, sites=3)
    training = cohorts(STUDY)["train"]
    found = tuple(
        Entry(one.query, one.sampling_rate, one.noise_multiplier, one.bound, one.times) for one in plan.of("train")
    )
    assert [entry.what for entry in found] == ["statistics", "step"]
    ledger.reserve("run", STUDY.fingerprint(), {training: found}, (2.0, 1e-4))
    assert ledger.spent(training, 1e-4, reserved=True) == plan.epsilon()


def test_two_processes_that_make_the_ledger_at_once_do_not_mistake_each_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, raced = store.read_head, []

    def read_late(anchor: Path) -> object:
        if not raced:
            raced.append(True)  # the other process is through between our look at the tables and at the anchor
            Ledger(ledger.path).reserve("other", "study", {"train": (STEP,)}, WIDE)
        return real(anchor)

    monkeypatch.setattr(store, "read_head", read_late)
    ledger.reserve("run", "study", {"train": (STEP,)}, WIDE)
    assert {row.run for row in ledger.rows()} == {"other", "run"}
