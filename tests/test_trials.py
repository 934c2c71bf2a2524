"""Who may train a trial: exactly one process at a time, and nothing is taken from a living one."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import SMALL
from filelock import FileLock

from normstudy import trials
from normstudy.config import TrainConfig
from normstudy.errors import StudyError
from normstudy.launch import single
from normstudy.ledger import ServerLedger
from normstudy.tracking import Tag, chosen_experiment, connect, where
from normstudy.trials import (
    HOST,
    Claim,
    Driver,
    Found,
    State,
    claim_again,
    claim_new,
    create_run,
    decisive,
    end_run,
    find_all,
    get,
    is_living,
    log_tags,
    now_milliseconds,
    states,
    take,
)

KEY = "0123456789abcdef"


@pytest.fixture
def experiment(store: str) -> str:
    connect()
    return chosen_experiment()


def claim(experiment: str, token: str, *, attempt: str = "a", force: bool = False, again: bool = False) -> Claim | None:
    return claim_new(experiment, Tag.TRIAL_KEY, KEY, token, {}, attempt=attempt, again=again, waiting=None, force=force)


def runs(experiment: str) -> list[Found]:
    return find_all(experiment, Tag.TRIAL_KEY, [KEY]).get(KEY, [])


def run_with(experiment: str, **tags: str) -> Found:
    marks = {Tag.TRIAL_KEY: KEY, Tag.HEARTBEAT: now_milliseconds()}
    return get(create_run(experiment, marks | {Tag[name]: value for name, value in tags.items()}))


def test_a_rival_that_has_given_up_and_deleted_its_run_does_not_stop_a_claim(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival, listed = run_with(experiment, ATTEMPT="rival"), find_all

    def then_deleted(*arguments: Any) -> dict[str, list[Found]]:
        found = listed(*arguments)
        assert rival.run_id in [run.run_id for run in found[KEY]]
        mlflow.MlflowClient().delete_run(rival.run_id)
        return found

    monkeypatch.setattr(trials, "find_all", then_deleted)
    won = claim(experiment, "host:1:x")
    assert won
    assert get(won.run_id).claims == [won.token]


def test_of_processes_that_claim_a_new_trial_at_once_one_wins_and_one_run_is_left(experiment: str) -> None:
    for round_ in range(3):
        key = f"{KEY}{round_}"

        def attempt(number: int, key: str = key) -> Claim | None:
            return claim_new(
                experiment, Tag.TRIAL_KEY, key, f"host:{number}:x", {},
                attempt=str(number), again=False, waiting=None, force=False,
            )  # fmt: skip

        with ThreadPoolExecutor(6) as pool:
            won = [claim for claim in pool.map(attempt, range(6)) if claim]
        assert len(won) == 1
        [run] = find_all(experiment, Tag.TRIAL_KEY, [key])[key]
        assert run.run_id == won[0].run_id
        assert run.claims == [won[0].token]


def test_of_processes_that_go_on_with_a_trial_at_once_one_wins(experiment: str) -> None:
    run = run_with(experiment)
    end_run(run.run_id, "KILLED", {})
    with ThreadPoolExecutor(6) as pool:
        won = [*filter(None, pool.map(lambda n: claim_again(experiment, run, KEY, f"host:{n}:x", {}), range(6)))]
    assert len(won) == 1
    assert get(run.run_id).claims == [won[0].token]
    assert get(run.run_id).status == "RUNNING"


def test_claims_are_numbered_and_the_same_claim_counts_once(experiment: str) -> None:
    run = run_with(experiment)
    assert take(run, "host:1:x")
    assert take(get(run.run_id), "host:1:x")
    assert not take(run, "host:2:x")  # as it was before the first claim
    assert take(get(run.run_id), "host:2:x")
    assert get(run.run_id).claims == ["host:1:x", "host:2:x"]


def test_trial_that_is_claimed_or_finished_cannot_be_claimed_as_new(experiment: str) -> None:
    first = claim(experiment, "host:1:x")
    assert first
    assert claim(experiment, "host:2:x", attempt="b") is None
    assert first.run_id
    end_run(first.run_id, "FINISHED", {})
    assert claim(experiment, "host:2:x", attempt="c") is None
    assert [run.run_id for run in runs(experiment)] == [first.run_id]
    forced = claim(experiment, "host:2:x", attempt="d", force=True)
    assert forced
    assert forced.run_id != first.run_id


def test_question_asked_again_after_a_lost_answer_makes_no_second_run(experiment: str) -> None:
    first, second = claim(experiment, "host:1:x"), claim(experiment, "host:1:x", again=True)
    assert first == second
    assert len(runs(experiment)) == 1


def test_run_of_a_lost_claim_that_waited_for_its_process_keeps_no_key(experiment: str) -> None:
    claim(experiment, "host:1:x")
    waiting = create_run(experiment, {})
    lost = claim_new(
        experiment, Tag.TRIAL_KEY, KEY, "host:2:x", {}, attempt="b", again=False, waiting=waiting, force=False
    )
    assert lost is None
    assert len(runs(experiment)) == 1
    assert Tag.TRIAL_KEY not in get(waiting).tags


def test_trial_that_another_process_takes_meanwhile_is_named_with_its_run_and_so_is_the_run_that_waited(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, listed = TrainConfig(**SMALL), ServerLedger.states
    key, waiting = config.trial_key, create_run(experiment, {})
    monkeypatch.setenv("MLFLOW_RUN_ID", waiting)

    def taken_after_the_look(ledger: ServerLedger, keys: list[str], key_tag: Tag) -> dict[str, tuple[State, str]]:
        looked = listed(ledger, keys, key_tag)
        if looked[key][0] == State.NEW:
            claim_new(experiment, key_tag, key, "host:1:x", {}, attempt="a", again=False, waiting=None, force=False)
        return looked

    monkeypatch.setattr(ServerLedger, "states", taken_after_the_look)
    with pytest.raises(StudyError) as error:
        single(config)
    [run] = find_all(experiment, Tag.TRIAL_KEY, [key])[key]
    assert str(error.value) == f"GN, seed 0: running elsewhere (run {run.run_id})"
    assert get(waiting).tags[Tag.NOTE] == f"Nothing was logged here: GN, seed 0 is run `{run.run_id}`."


def test_a_new_experiment_is_made_without_a_word(store: str, capfd: pytest.CaptureFixture[str]) -> None:
    connect()
    chosen_experiment()
    assert mlflow.get_experiment_by_name("normstudy") is not None
    assert capfd.readouterr() == ("", "")


def test_decisive_run_is_the_newest_finished_else_the_newest_claimed(experiment: str) -> None:
    assert decisive([]) is None
    old, unclaimed = run_with(experiment), run_with(experiment)
    take(old, "host:1:x")
    assert decisive(runs(experiment)).run_id == old.run_id  # type: ignore[union-attr]
    end_run(unclaimed.run_id, "FINISHED", {})
    assert decisive(runs(experiment)).run_id == unclaimed.run_id  # type: ignore[union-attr]


def test_process_on_this_machine_lives_while_it_holds_a_lock_whatever_its_heartbeat(experiment: str) -> None:
    run = run_with(experiment, ATTEMPT="a", HEARTBEAT="1000")
    with Driver(where()) as driver:
        take(run, driver.token)
        assert is_living(get(run.run_id)) is True
    token = driver.token
    lock = Path(driver.lock.lock_file)
    lock.touch()  # as a killed driver leaves it
    log_tags(run.run_id, {Tag.HEARTBEAT: now_milliseconds()})
    assert get(run.run_id).claims == [token]
    assert is_living(get(run.run_id)) is False
    log_tags(run.run_id, {Tag.HOST: HOST})
    folder = get(run.run_id).folder(where())
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):  # the driver is dead, its trial trains on
        assert is_living(get(run.run_id)) is True
    assert is_living(get(run.run_id)) is False


def test_process_elsewhere_lives_while_its_heart_beats_and_is_watched_before_it_counts_as_dead(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating, stopped = (run_with(experiment, HOST="elsewhere", HEARTBEAT="1000") for _ in range(2))
    fresh = run_with(experiment, HOST="elsewhere")
    assert is_living(fresh) is True
    assert is_living(beating) is None

    def meanwhile(seconds: float) -> None:
        assert seconds >= 2 * trials.HEARTBEAT_SECONDS
        log_tags(beating.run_id, {Tag.HEARTBEAT: "2000"})

    monkeypatch.setattr(trials.time, "sleep", meanwhile)
    found = states({"beating": beating, "stopped": stopped, "fresh": fresh, "none": None})
    assert found == {
        "beating": State.RUNNING,
        "stopped": State.UNFINISHED,
        "fresh": State.RUNNING,
        "none": State.NEW,
    }


@pytest.mark.parametrize(
    ("status", "tags", "expected"),
    [
        ("FINISHED", {}, State.FINISHED),
        ("KILLED", {}, State.UNFINISHED),
        ("FAILED", {}, State.UNFINISHED),
        ("FAILED", {Tag.FAILURE_STEP: "7"}, State.DIVERGED),
    ],
)
def test_state_is_read_from_status_and_reason(
    experiment: str, status: str, tags: dict[str, str], expected: State
) -> None:
    run = run_with(experiment)
    end_run(run.run_id, status, tags)
    assert states({"x": get(run.run_id)}) == {"x": expected}


def test_all_pages_of_runs_are_read(experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "RUNS_A_PAGE", 2)
    made = {run_with(experiment).run_id for _ in range(5)}
    assert {run.run_id for run in runs(experiment)} == made
    assert [len(found) for found in find_all(experiment, Tag.TRIAL_KEY, None).values()] == [5]


def test_heartbeat_is_the_time(experiment: str) -> None:
    assert abs(run_with(experiment).heartbeat - time.time()) < 5
    assert mlflow.get_tracking_uri().startswith("sqlite")
