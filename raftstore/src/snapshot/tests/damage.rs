//! Damaged files and bad streams are found, named and refused, and nothing is changed by them.

use super::*;

const STRIDE: usize = 97;

/// A sender with a snapshot, and the store it is for.
fn pair(kind: Kind) -> (Store, Store, RaftSnapshotData) {
    let sender = Store::holding(kind, &neighbourhood("new"));
    let data = sender.build(&region("d", "m")).expect("build");
    (sender, Store::holding(kind, &neighbourhood("old")), data)
}

fn stream(store: &Store) -> Vec<u8> {
    let mut outgoing = Outgoing::open(&store.snapshots(), ID).expect("open");
    let mut stream = Vec::new();
    while let Some(chunk) = outgoing.next_chunk().expect("chunk") {
        stream.extend_from_slice(&chunk);
    }
    stream
}

/// Sends these bytes as the whole stream.
fn receive(store: &Store, data: &RaftSnapshotData, stream: &[u8]) -> Result<()> {
    let mut incoming = Incoming::begin(&store.snapshots(), ID, data)?;
    stream.chunks(1_000).try_for_each(|chunk| incoming.write(chunk))?;
    incoming.finish()
}

/// The name of the file that byte `place` of the stream belongs to.
fn file_at(data: &RaftSnapshotData, mut place: usize) -> String {
    let files = &data.meta.as_ref().expect("meta").cf_files;
    for file in files {
        if place < file.size as usize {
            return format!("rev_7_6_120_{}.sst", file.cf);
        }
        place -= file.size as usize;
    }
    panic!("the stream is shorter")
}

#[test]
fn a_bit_that_flipped_on_the_way_is_found_and_the_file_is_named() {
    for kind in KINDS {
        let (sender, receiver, data) = pair(kind);
        let good = stream(&sender);
        let mut blamed = BTreeSet::new();
        for place in (0..good.len()).step_by(STRIDE).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            let refusal = receive(&receiver, &data, &bad).expect_err("a flipped bit");
            assert!(matches!(refusal, Error::SnapshotRefused { .. }), "{refusal}");
            let file = file_at(&data, place);
            assert!(refusal.to_string().starts_with(&format!("{file} is refused: its checksum")));
            assert_eq!(receiver.names(), BTreeSet::new(), "nothing is left");
            blamed.insert(file);
        }
        assert_eq!(blamed.len(), 6, "every file was hit: {blamed:?}");
        receive(&receiver, &data, &good).expect("a good stream");
    }
}

#[test]
fn a_bit_that_flipped_on_disk_is_found_before_anything_is_installed() {
    for kind in KINDS {
        let (sender, receiver, data) = pair(kind);
        receiver.receive(&sender, &data).expect("receive");
        for name in receiver.names() {
            let path = receiver.snapshots().join(&name);
            let length = std::fs::metadata(&path).expect("metadata").len() as usize;
            for place in (0..length).step_by(STRIDE).chain([length - 1]) {
                let good = flip(&path, place);
                let error = receiver.install(&region("d", "m")).expect_err("a flipped bit");
                assert!(matches!(error, Error::Damaged { .. }), "{error}");
                assert!(error.to_string().contains(&name), "{error} should name {name}");
                std::fs::write(&path, good).expect("write");
            }
        }
        assert_eq!(receiver.contents(), neighbourhood("old"));
        receiver.install(&region("d", "m")).expect("all is well again");
    }
}

#[test]
fn a_bit_that_flipped_at_the_sender_stops_the_stream_and_is_built_anew() {
    for kind in KINDS {
        let (sender, receiver, _) = pair(kind);
        for name in complete_names("gen") {
            let data = sender.build(&region("d", "m")).expect("build");
            flip(&sender.snapshots().join(&name), 20);
            let error = receiver.receive(&sender, &data).expect_err("a flipped bit");
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(&name), "{error} should name {name}");
            assert_eq!(receiver.names(), BTreeSet::new(), "nothing is left");
        }
        let data = sender.build(&region("d", "m")).expect("build");
        receiver.receive(&sender, &data).expect("receive");
        // Found there as well, and received anew.
        for name in complete_names("rev") {
            flip(&receiver.snapshots().join(&name), 20);
            let incoming = Incoming::begin(&receiver.snapshots(), ID, &data).expect("begin");
            assert!(!incoming.is_complete(), "{name}");
            drop(incoming);
            receiver.receive(&sender, &data).expect("receive");
        }
        receiver.install(&region("d", "m")).expect("install");
    }
}

#[test]
fn a_short_or_long_stream_is_refused_and_leaves_nothing() {
    for kind in KINDS {
        let (sender, receiver, data) = pair(kind);
        let good = stream(&sender);
        for length in (0..good.len()).step_by(STRIDE).chain([good.len() - 1]) {
            let refusal = receive(&receiver, &data, &good[..length]).expect_err("short");
            let file = file_at(&data, length);
            let begin = format!("{file} is refused: the stream ended after ");
            assert!(refusal.to_string().starts_with(&begin), "{refusal} should say {begin}");
            assert_eq!(receiver.names(), BTreeSet::new());
        }
        let refusal = receive(&receiver, &data, &[&good[..], b"x"].concat()).expect_err("long");
        assert_eq!(
            refusal.to_string(),
            "snapshot 7_6_120 is refused: 1 bytes follow its last file"
        );
        assert_eq!(receiver.names(), BTreeSet::new());
    }
}

#[test]
fn a_file_of_the_sender_that_lost_its_end_is_named() {
    let (sender, _, data) = pair(Kind::Memory);
    let path = sender.snapshots().join("gen_7_6_120_write.sst");
    let bytes = std::fs::read(&path).expect("read");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("write");
    let error = copy(&sender.snapshots(), Store::new(Kind::Memory).home.path(), ID, &data);
    let error = error.expect_err("a short file").to_string();
    assert!(
        error.contains(&format!(
            "gen_7_6_120_write.sst is damaged: it has less than {}",
            bytes.len()
        ))
    );
}

#[test]
fn a_snapshot_of_another_format_region_or_range_is_refused() {
    let (sender, receiver, data) = pair(Kind::Memory);
    let newer = RaftSnapshotData { version: VERSION + 1, ..data.clone() };
    let refusal = receiver.receive(&sender, &newer).expect_err("another version").to_string();
    assert_eq!(refusal, "snapshot 7_6_120 is refused: it has format version 3, known here is 2");
    let other = SnapshotId { region_id: 8, ..ID };
    let refusal = Incoming::begin(&receiver.snapshots(), other, &data).expect_err("another region");
    assert!(refusal.to_string().contains("it is of region Some(7) instead of 8"), "{refusal}");
    receiver.receive(&sender, &data).expect("receive");
    let error = receiver.install(&region("d", "n")).expect_err("another range").to_string();
    assert!(error.contains("rev_7_6_120.meta is damaged: it is of r7"), "{error}");
    assert_eq!(receiver.contents(), neighbourhood("old"));
}
