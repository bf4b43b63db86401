"""What the training loop adds to the Trainer."""

from __future__ import annotations

from pathlib import Path

from secateurs.stages.train import _last_whole_checkpoint


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    assert _last_whole_checkpoint(tmp_path) is None
    for step, state in ((500, "{}"), (1000, '{"global'), (1500, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert _last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-500")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-500"]
