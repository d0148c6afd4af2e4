//! Strangers, who need no network to be looked at.

use super::*;

fn coordinator() -> Coordinator {
    Coordinator::new(Settings::default(), "node01:4000".into(), 2)
}

#[test]
fn who_says_nothing_is_closed() {
    let (mut machine, tick) = (coordinator(), Duration::from_millis(100));
    let mut now = Duration::ZERO;
    assert_eq!(machine.on(now, Event::Accepted(1)), []);
    while now < Settings::default().hello {
        now += tick;
        assert_eq!(machine.on(now, Event::Tick), [], "at {now:?}");
    }
    assert_eq!(machine.on(now + tick, Event::Tick), [Action::Close(1)]);
    assert_eq!(machine.strangers.count, 1);
}

#[test]
fn many_strangers_cost_the_oldest_its_place() {
    let mut machine = coordinator();
    let mut closed = Vec::new();
    for connection in 1..=1000 {
        let now = Duration::from_micros(connection);
        closed.extend(machine.on(now, Event::Accepted(connection)));
    }
    let expected: Vec<_> = (1..=1000 - 64).map(Action::Close).collect();
    assert_eq!(closed, expected);
}
