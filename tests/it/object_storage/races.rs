//! Cleanup in several processes never deletes an object that a message refers to, whatever requests do meanwhile.

use futures_util::future::join_all;
use postrider::worker::Worker;

use super::{KIB, attaching, attachment, delete_messages, referenced, start, unreferenced};
use crate::support::clock::hours;
use crate::support::uploads::file;

const ROUNDS: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_never_deletes_an_object_that_is_used() {
    let (s3, app) = start().await;
    let (_other, api) = app.another_api().await;
    let workers = [app.another_worker().await, app.another_worker().await, app.another_worker().await];
    let data = file(1, 300 * KIB);
    for round in 0..ROUNDS {
        // From now on the attachment of the last round is unused, so it is deleted while requests attach it again.
        delete_messages(&app).await;
        app.clock.advance(hours(8 * 24));
        let sending = join_all((0..4).map(|n| {
            let api = if n % 2 == 0 { app.api() } else { &api };
            api.send(attaching(&data))
        }));
        let cleaning = join_all(workers.iter().map(Worker::clean_up));
        let (_, cleaned) = tokio::join!(sending, cleaning);
        for cleaned in cleaned {
            cleaned.unwrap();
        }
        let (keys, used) = (s3.keys(), referenced(&app).await);
        assert!(used.iter().all(|key| keys.contains(key)), "round {round}: {used:?} in {keys:?}");
    }
    app.run_until_idle().await;
    let messages = app.smtp.received(4).await;
    assert!(messages.iter().all(|message| attachment(&message.raw) == data));
    for cleaned in join_all(workers.iter().map(Worker::clean_up)).await {
        cleaned.unwrap();
    }
    assert_eq!((s3.keys(), unreferenced(&app).await), (referenced(&app).await, 0));
}
