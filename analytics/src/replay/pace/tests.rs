use super::*;
use crate::project::tests::fakes::{FakeOutbox, event, payers_of_one_shard};
use tokio::{join, task::yield_now, time::advance};

const WORK: Duration = Duration::from_millis(30);

async fn pace() -> Pace {
    let (_, [payer, _]) = payers_of_one_shard();
    Pace::begin(Arc::new(FakeOutbox::new(vec![event(payer, 1)], 1))).await
}

/// How long a look takes, of a clock that moves only where the test says so.
async fn look(pace: &mut Pace, others_take: Duration) -> Duration {
    let began = Instant::now();
    let others = async {
        yield_now().await;
        advance(others_take).await;
    };
    join!(pace.keep(), others);
    began.elapsed() - others_take
}

#[tokio::test(start_paused = true)]
async fn who_is_served_beside_it_goes_first() {
    let mut pace = pace().await;
    advance(WORK).await;
    assert!(look(&mut pace, Duration::from_millis(10)).await >= WORK * PARTS_OF_REST);
}

#[tokio::test(start_paused = true)]
async fn on_a_machine_with_room_it_goes_on() {
    let mut pace = pace().await;
    advance(WORK).await;
    assert!(look(&mut pace, Duration::ZERO).await <= NAP);
    assert!(look(&mut pace, Duration::ZERO).await.is_zero(), "looked again without having worked");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_booked_it_goes_on() {
    let mut pace = pace().await;
    advance(NEWS_EVERY).await;
    assert!(look(&mut pace, Duration::from_millis(10)).await.is_zero());
}
