//! The suite of `ports::replays` on every adapter.

use crate::adapters::on_each_adapter;

on_each_adapter! {
    replays;
    one:
        every_field_of_a_replay_is_kept,
        a_change_of_what_has_changed_since_changes_nothing,
        replays_are_listed_newest_first;
    two:
        of_many_that_start_at_once_one_runs_and_no_two_ever_share_a_generation,
        a_paused_replay_goes_on_only_when_no_other_runs;
}
