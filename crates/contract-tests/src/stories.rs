//! Random stories, played to their end; the shortest one that fails is shown.

use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestError, TestRunner},
};

/// Needs a runtime with several threads.
pub fn play_each<S: Strategy>(cases: u32, stories: &S, play: impl AsyncFn(S::Value)) {
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() });
    let outcome = tokio::task::block_in_place(|| {
        runner.run(stories, |story| {
            tokio::runtime::Handle::current().block_on(play(story));
            Ok(())
        })
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, story)) => panic!("{reason}\nthe shortest story: {story:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}
