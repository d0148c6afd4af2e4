use super::*;
use crate::parallel::control::message::{Bytes, Progress};
use crate::rng::{Purpose, Stream};

const TOKEN: u64 = 0x0123_4567_89ab_cdef;

fn give(bytes: Vec<u8>) -> Message {
    Message::Give {
        sequence: 7,
        what: "losses".into(),
        bytes: Bytes(bytes),
        progress: Progress {
            step: 3,
            collectives: 9,
            collective: "reduce bucket 3".into(),
        },
    }
}

fn known() -> Decoder {
    let mut decoder = Decoder::new(TOKEN);
    decoder.push(&encode(&Message::Heard, TOKEN).unwrap());
    assert_eq!(decoder.next().unwrap(), Some(Message::Heard));
    decoder
}

#[test]
fn messages_come_whole_however_they_are_cut() {
    let messages = [
        Message::Heard,
        give((0..=255).collect()),
        Message::Bye { exit: 75 },
    ];
    let frames: Vec<u8> = messages.iter().flat_map(|m| encode(m, TOKEN).unwrap()).collect();
    for size in [1, 2, 15, 16, 17, 100, frames.len()] {
        let mut decoder = Decoder::new(TOKEN);
        let mut found = Vec::new();
        for part in frames.chunks(size) {
            decoder.push(part);
            while let Some(message) = decoder.next().unwrap() {
                found.push(message);
            }
        }
        assert_eq!(found, messages, "in parts of {size} bytes");
    }
}

#[test]
fn another_protocol_shows_at_its_first_byte() {
    let mut decoder = Decoder::new(TOKEN);
    decoder.push(b"G");
    let error = decoder.next().unwrap_err();
    assert_eq!(error, WireError::Magic(b"G".to_vec()));
    assert!(error.to_string().contains("does not speak this protocol"));
}

#[test]
fn another_job_is_named() {
    let mut decoder = Decoder::new(TOKEN);
    decoder.push(&encode(&Message::Heard, 5).unwrap());
    assert_eq!(
        decoder.next().unwrap_err(),
        WireError::Token {
            expected: TOKEN,
            found: 5
        }
    );
}

#[test]
fn lengths_are_refused_before_anything_is_allocated() {
    let header = |length: usize| {
        let mut header = encode(&Message::Heard, TOKEN).unwrap()[..12].to_vec();
        header.extend(u32::try_from(length).unwrap().to_le_bytes());
        header
    };
    for (mut decoder, most) in [(Decoder::new(TOKEN), MOST_OF_STRANGERS), (known(), MOST)] {
        decoder.push(&header(most + 1));
        let found = most + 1;
        assert_eq!(decoder.next().unwrap_err(), WireError::Length { most, found });
    }
    let mut decoder = known();
    decoder.push(&header(MOST));
    assert_eq!(decoder.next().unwrap(), None);
    assert!(decoder.bytes.capacity() < 1024);
}

#[test]
fn what_is_no_message_is_an_error() {
    for json in [
        "",
        "{}",
        "nonsense",
        "\"Unknown\"",
        "{\"Bye\":{\"exit\":256}}",
        "{\"Give\":{\"sequence\":0,\"what\":\"x\",\"bytes\":\"abc\",\"progress\":{\"step\":0,\"collectives\":0,\"collective\":\"\"}}}",
        "\"Heard\" and more",
    ] {
        let mut decoder = known();
        let mut frame = encode(&Message::Heard, TOKEN).unwrap()[..12].to_vec();
        frame.extend(u32::try_from(json.len()).unwrap().to_le_bytes());
        frame.extend(json.as_bytes());
        decoder.push(&frame);
        assert!(matches!(decoder.next(), Err(WireError::Message(_))), "{json}");
    }
}

/// Random bytes, and frames with random bytes changed: never a panic, never a wait for more than a frame may have.
#[test]
fn random_bytes_end_as_errors() {
    let mut draw = Stream::new(1, 0, Purpose::Synthetic, 0);
    for _ in 0..20_000 {
        let mut bytes = encode(&give(vec![1; 20]), TOKEN).unwrap();
        let changes = 1 + draw.below(8);
        for _ in 0..changes {
            let at = usize::try_from(draw.below(bytes.len() as u64)).unwrap();
            bytes[at] = draw.next_u32().to_le_bytes()[0];
        }
        let mut decoder = known();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next() {}
        assert!(decoder.bytes.len() <= bytes.len());
    }
}
