//! The suite of `ports::webhooks` on every adapter.

use crate::adapters::on_each_adapter;

on_each_adapter! {
    webhooks;
    one:
        a_webhook_is_kept_for_its_payer_until_it_is_deleted,
        an_event_is_delivered_once_to_each_webhook_that_was_there,
        a_claimed_delivery_is_nobody_elses_until_its_deadline,
        outcomes_are_kept_and_a_failed_delivery_can_begin_again,
        positions_only_rise,
        ended_deliveries_are_forgotten_and_pending_ones_kept;
    two:;
}
