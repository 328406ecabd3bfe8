use conveyor_raft::RouterCommand;
use tokio::sync::mpsc;

use super::*;
use crate::input::Item;

const COMMANDS: u64 = 3000;

/// Offsets that only rise: one that came late would be refused, one that came twice would change
/// nothing.
fn item(number: u64) -> Item {
    Item {
        number,
        position: number,
        command: Ok(RouterCommand::CommitSourceOffset {
            source_id: "orders".into(),
            partition: 0,
            offset: number,
            rewind: false,
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_lost_on_the_way_costs_no_order_and_repeats_nothing() {
    let folder = Folder::open(None, 3).expect("folder");
    let cluster = DevCluster::start(&folder).await.expect("cluster");
    cluster.wait_until_ready(PATIENCE).await.expect("leader");
    let leader = cluster.leader().expect("leader").clone();
    let (send, receive) = mpsc::channel(16);
    let lost = leader.id();
    let input = tokio::spawn(async move {
        for number in 1..=COMMANDS {
            send.send(Ok(item(number))).await.expect("taken");
            if number == COMMANDS / 2 {
                let leader = leader.clone();
                tokio::spawn(async move { leader.shutdown().await });
            }
        }
    });
    let tally = Feeder::new(&cluster, None).run(receive).await.expect("fed");
    input.await.expect("input");
    let counts = (
        tally.unchanged,
        tally.rejected,
        tally.applied + tally.unknown,
    );
    assert_eq!(counts, (0, 0, COMMANDS), "unknown: {}", tally.unknown);

    let others = cluster.nodes().iter().filter(|node| node.id() != lost);
    for node in others {
        let state = node
            .wait_applied(tally.last_index, PATIENCE)
            .await
            .expect("applied");
        let offset = state.view.source_offset("orders", 0).expect("offset");
        assert_eq!(offset.offset, COMMANDS);
    }
    cluster.shutdown().await;
}
