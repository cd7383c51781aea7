//! The suite of `ports::ledger` on every adapter.

use crate::adapters::on_each_adapter_and_two_databases;

on_each_adapter_and_two_databases! {
    ledger;
    one:
        a_batch_is_decided_in_order_and_exactly_what_fits_passes,
        the_answered_charge_is_the_stored_one,
        a_refusal_changes_nothing,
        a_snapshot_after_a_number_has_the_whole_state_and_only_the_events_behind_it,
        nothing_to_apply_is_no_error,
        a_hold_ends_once_and_repeating_the_end_changes_nothing,
        a_late_settle_after_expiry_is_booked_as_debt_where_nothing_is_left,
        a_hold_is_settled_in_the_period_in_which_it_was_made,
        a_spend_counts_in_the_period_of_its_time_though_the_next_has_begun,
        a_budget_in_tokens_and_one_in_money_are_decided_with_the_balance,
        a_charge_keeps_its_cost_and_a_budget_what_it_spent,
        a_members_budget_limits_only_that_member,
        a_budget_is_renewed_by_the_calendar_and_a_lifted_one_only_counts,
        each_threshold_is_told_once_in_a_period,
        a_pool_tells_its_thresholds_once_until_a_credit_takes_the_use_below_them,
        an_amount_that_a_budget_cannot_count_is_refused_and_changes_nothing,
        any_story_is_answered_as_the_rules_say,
        the_largest_and_strangest_values_survive,
        charges_come_newest_first_page_by_page,
        charges_of_one_millisecond_are_all_listed,
        pools_come_in_the_order_of_their_keys_page_by_page,
        expired_holds_are_found_oldest_first_until_they_end,
        what_does_not_exist_is_none,
        the_same_request_again_gets_the_stored_answer,
        a_stored_answer_stays_as_it_was_given,
        a_refused_request_does_not_take_its_key,
        an_opened_key_is_in_progress_until_its_charge_completes_it,
        the_opener_may_ask_again_when_its_answer_was_lost,
        a_hold_that_ended_by_itself_still_completes_its_key,
        answers_are_forgotten_by_whole_days_and_their_keys_are_free_again,
        the_same_charge_again_is_done_once,
        a_refund_gives_back_in_parts_and_never_more_than_was_settled,
        a_refund_is_a_saga_that_is_open_until_it_is_completed,
        a_refund_restores_the_period_in_which_was_spent_and_the_budget_that_counted_it,
        the_same_refund_again_is_done_once,
        a_purchase_is_moved_by_whoever_has_the_latest_claim_until_it_has_ended,
        a_purchase_that_is_compensated_takes_its_tokens_back,
        late_usage_is_booked_in_the_period_in_which_it_happened,
        usage_is_recognised_by_its_name_alone;
    two:
        any_history_with_lost_answers_races_and_sweeps_is_what_a_simple_model_says,
        an_abandoned_key_is_resumed_by_exactly_one_caller_with_a_new_lease,
        of_many_same_requests_at_once_one_is_done,
        of_many_tellings_at_once_one_is_booked,
        what_another_handle_granted_can_be_spent,
        what_another_handle_spent_cannot_be_spent_again,
        a_hold_of_another_handle_is_known,
        a_budget_set_by_another_handle_binds,
        a_key_used_by_another_handle_is_known,
        a_period_that_began_at_another_handle_is_known,
        of_refunds_that_race_with_spends_nothing_is_lost_or_given_twice,
        of_many_that_claim_a_purchase_one_gets_it_until_its_lease_is_over,
        overdue_holds_are_shown_to_one_sweeper_until_its_lease_is_over,
        two_writers_never_overspend_a_pool,
        of_ends_that_race_one_is_booked_and_told_to_all,
        a_snapshot_under_load_is_of_one_moment,
        overlapping_batches_do_not_deadlock;
}

/// Two different requests under one key are told apart within a database only.
mod in_one_database {
    crate::adapters::on_each_adapter! {
        ledger;
        one:
            another_request_under_the_key_is_a_mismatch_whether_it_is_open_or_completed;
        two:
            each_key_has_one_effect_and_one_answer_whatever_is_lost_crashes_or_comes_twice,
            a_key_used_in_two_shards_at_once_is_one_request_and_one_mismatch;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_the_embedded_store_never_skips_while_several_write() {
    let store = adapter_embedded::Embedded::in_temp().await.unwrap();
    suite::a_reader_never_skips_while_several_write(&[&store, &store], &store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_postgres_never_skips_while_several_write() {
    let store = crate::real::FreshPostgres::create().await;
    let third = crate::real::connect(&store.url).await.unwrap();
    suite::a_reader_never_skips_while_several_write(&[&store.one, &store.one, &store.other, &store.other], &third).await;
    third.close().await;
    store.remove().await;
}
