//! The suite of `ports::answers` on every adapter, and on the one in memory that tests of services use.

use crate::adapters::on_each_adapter;
use idempotency::memory::MemoryAnswers;

on_each_adapter! {
    answers;
    one:
        the_first_attempt_runs_and_its_answer_is_given_to_all_others,
        beginning_again_is_no_second_attempt,
        another_request_under_the_name_is_a_mismatch,
        a_freed_name_begins_anew_and_a_repeated_one_from_its_origin,
        answers_are_forgotten_by_whole_days_and_their_names_are_free_again;
    two:
        an_abandoned_attempt_is_taken_over_by_exactly_one,
        of_many_at_once_one_runs,
        attempts_that_crash_overlap_and_come_late_are_what_a_simple_model_says;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_memory_behave_as_the_stored_ones() {
    let store = MemoryAnswers::default();
    suite::the_first_attempt_runs_and_its_answer_is_given_to_all_others(&store).await;
    suite::beginning_again_is_no_second_attempt(&store).await;
    suite::another_request_under_the_name_is_a_mismatch(&store).await;
    suite::a_freed_name_begins_anew_and_a_repeated_one_from_its_origin(&store).await;
    suite::an_abandoned_attempt_is_taken_over_by_exactly_one(&store, &store).await;
    suite::of_many_at_once_one_runs(&store, &store).await;
    suite::attempts_that_crash_overlap_and_come_late_are_what_a_simple_model_says(&store, &store).await;
    suite::answers_are_forgotten_by_whole_days_and_their_names_are_free_again(&MemoryAnswers::default()).await;
}
