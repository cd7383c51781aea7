//! The suite of `ports::outbox` on every adapter.

use crate::adapters::on_each_adapter_and_two_databases;

on_each_adapter_and_two_databases! {
    outbox;
    one:
        a_row_says_what_its_event_says,
        a_shard_is_read_in_order_from_any_number,
        thresholds_are_found_among_all_other_events,
        several_shards_are_read_at_once_each_from_its_own_number,
        heads_name_every_shard_in_order_with_its_newest_number,
        a_single_owner_holds_every_shard_and_renewing_changes_nothing,
        two_owners_share_evenly_and_no_shard_has_two,
        an_abandoned_shard_is_taken_after_its_time_with_a_higher_fencing,
        marks_rise_only_and_those_of_an_earlier_owner_are_ignored,
        waiting_ends_with_new_rows_or_with_its_time;
    two: ;
}
