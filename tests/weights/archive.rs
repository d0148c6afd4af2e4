//! Zip archives as PyTorch writes them, and as it never would.

/// One member of an archive, and what its entries say about it.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
    /// What the directory says: 0 is stored.
    pub(crate) method: u16,
    /// Added to the length in the directory.
    pub(crate) more: u32,
    /// Added to the place in the directory.
    pub(crate) moved: u32,
}

pub(crate) fn member(name: &str, content: &[u8]) -> Member {
    Member {
        name: name.into(),
        content: content.into(),
        method: 0,
        more: 0,
        moved: 0,
    }
}

/// The archive of some members.
pub(crate) fn archive(members: &[Member]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let place = bytes.len() as u32;
        let (len, name) = (member.content.len() as u32, member.name.as_bytes());
        let sizes = |more: u32| {
            let mut sizes = crc32(&member.content).to_le_bytes().to_vec();
            sizes.extend((len + more).to_le_bytes().repeat(2));
            sizes
        };
        bytes.extend(b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0");
        bytes.extend(sizes(0));
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend([0, 0]);
        bytes.extend(name);
        bytes.extend(&member.content);
        directory.extend(b"PK\x01\x02\x14\0\x14\0\0\0");
        directory.extend(member.method.to_le_bytes());
        directory.extend([0; 4]);
        directory.extend(sizes(member.more));
        directory.extend((name.len() as u16).to_le_bytes());
        directory.extend([0; 12]);
        directory.extend((place + member.moved).to_le_bytes());
        directory.extend(name);
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend((members.len() as u16).to_le_bytes().repeat(2));
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| {
        if crc & 1 == 1 {
            crc >> 1 ^ 0xedb8_8320
        } else {
            crc >> 1
        }
    };
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc))
    })
}

/// A text as a pickle has it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// A tensor as a pickle has it: a storage of `len` numbers under `key`.
pub(crate) fn tensor(key: &str, len: u32, offset: u32, dims: &[u32], strides: &[u32]) -> Vec<u8> {
    let number = |value: u32| {
        let mut bytes = vec![b'J'];
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let tuple = |values: &[u32]| {
        let mut bytes = vec![b'('];
        values.iter().for_each(|value| bytes.extend(number(*value)));
        bytes.push(b't');
        bytes
    };
    let mut bytes = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    bytes.extend(text("storage"));
    bytes.extend(b"ctorch\nFloatStorage\n");
    bytes.extend(text(key));
    bytes.extend(text("cpu"));
    bytes.extend(number(len));
    bytes.extend(b"tQ");
    bytes.extend(number(offset));
    bytes.extend(tuple(dims));
    bytes.extend(tuple(strides));
    bytes.extend(b"\x89)tR");
    bytes
}
