//! Compares our messages and services with the public definition that clients are built against.
//!
//! `kvproto.tsv` holds one line for each RPC, field and enum value of the packages that we have,
//! and for each message without fields; of `etcdserverpb` and `grpc.health.v1`, which are others', for
//! what we have of them. Our own descriptors are brought into the same form, and every line of ours
//! must be there, but for two rules and a list:
//!
//! 1. A message of raft's own (`eraftpb`) is `bytes` in ours, which on the wire is the same.
//! 2. A `oneof` of which we have one alternative only is an `optional` field: again the same.
//! 3. What exists only here stands in [`ONLY_OURS`], and packages that do, in [`OWN_PACKAGES`].
//!
//! Lines of the table that we do not have are not looked at: an unknown field is skipped, an
//! unknown method answers UNIMPLEMENTED.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// What differs from the public definition on purpose. Nearly all of it is in the format of our own raft
/// log, which no program but ours reads: column families are an enum and not a text, and a command
/// is one alternative of several instead of a type beside optional fields.
/// `proto/raft_cmdpb.proto` says why. The rest is what our stores tell each other about hibernation.
const ONLY_OURS: &str = "
enum raft_cmdpb.ColumnFamily 0 DEFAULT -
enum raft_cmdpb.ColumnFamily 1 LOCK -
enum raft_cmdpb.ColumnFamily 2 WRITE -
enum raft_cmdpb.ColumnFamily 3 RAW -
field raft_cmdpb.PutRequest 1 column_family raft_cmdpb.ColumnFamily
field raft_cmdpb.DeleteRequest 1 column_family raft_cmdpb.ColumnFamily
field raft_cmdpb.DeleteRangeRequest 1 column_family raft_cmdpb.ColumnFamily
field raft_cmdpb.Request 4 put raft_cmdpb.PutRequest (oneof command)
field raft_cmdpb.Request 5 delete raft_cmdpb.DeleteRequest (oneof command)
field raft_cmdpb.Request 8 delete_range raft_cmdpb.DeleteRangeRequest (oneof command)
field raft_cmdpb.AdminRequest 4 compact_log raft_cmdpb.CompactLogRequest (oneof command)
field raft_cmdpb.AdminRequest 5 transfer_leader raft_cmdpb.TransferLeaderRequest (oneof command)
field raft_cmdpb.AdminRequest 10 splits raft_cmdpb.BatchSplitRequest (oneof command)
field raft_cmdpb.AdminRequest 11 change_peer_v2 raft_cmdpb.ChangePeerV2Request (oneof command)
enum raft_serverpb.ExtraMessageType 100 MsgStoreAlive -
field raft_serverpb.ExtraMessage 100 rest raft_serverpb.Rest
field raft_serverpb.ExtraMessage 101 incarnation uint64
message raft_serverpb.Rest - - -
field raft_serverpb.Rest 1 term uint64
field raft_serverpb.Rest 2 index uint64
field raft_serverpb.Rest 3 round uint64
";

/// Packages of which the public definition knows nothing. Programs that do not either answer UNIMPLEMENTED.
const OWN_PACKAGES: [&str; 1] = ["gcpb"];

/// One line of the table, or the same about ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    /// `rpc`, `field`, `enum`, or `message`.
    kind: String,
    /// The service, message or enum that it belongs to; for `message` that one itself.
    owner: String,
    /// Field number or enum value; `-` for others.
    number: String,
    name: String,
    /// Types as the definition writes them: `repeated bytes`, `stream a.B -> a.C`.
    detail: String,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { kind, owner, number, name, detail } = self;
        write!(f, "{kind} {owner} {number} {name} {detail}")
    }
}

impl Row {
    fn new(kind: &str, owner: &str, number: impl ToString, name: &str, detail: String) -> Row {
        let (kind, owner, name) = (kind.to_string(), owner.to_string(), name.to_string());
        Row { kind, owner, number: number.to_string(), name, detail }
    }
}

#[test]
fn our_messages_agree_with_the_public_definition() {
    let differences = compare(&our_rows(), &public_rows(), &only_ours());
    assert!(differences.is_empty(), "not as in kvproto.tsv:\n{}", differences.join("\n"));
}

#[test]
fn the_comparison_covers_every_file() {
    let packages: BTreeSet<_> = our_rows()
        .iter()
        .filter_map(|row| Some(row.owner.split_once('.')?.0.to_string()))
        .collect();
    let expected = [
        "deadlock",
        "eraftpb",
        "errorpb",
        "etcdserverpb",
        "grpc",
        "keyspacepb",
        "kvrpcpb",
        "metapb",
        "pdpb",
        "raft_cmdpb",
        "raft_serverpb",
        "tikvpb",
    ];
    assert!(packages.iter().eq(expected), "{packages:?}");
}

/// The comparison itself is tested by changing one thing of ours at a time.
#[test]
fn each_kind_of_change_is_noticed() {
    type Change = fn(&mut Row);
    let changes: [(&str, &str, Change); 6] = [
        ("metapb.Region", "start_key", |row| row.number = "3".into()),
        ("metapb.Region", "peers", |row| row.detail = "metapb.Peer".into()),
        ("metapb.Region", "region_epoch", |row| row.name = "epoch".into()),
        ("metapb.PeerRole", "Learner", |row| row.number = "4".into()),
        ("pdpb.PD", "Tso", |row| row.detail = "pdpb.TsoRequest -> pdpb.TsoResponse".into()),
        ("errorpb.StaleCommand", "-", |row| row.owner = "errorpb.Stale".into()),
    ];
    for (owner, name, change) in changes {
        let mut ours = our_rows();
        let row = ours.iter_mut().find(|row| row.owner == owner && row.name == name);
        change(row.expect("the row exists"));
        let differences = compare(&ours, &public_rows(), &only_ours());
        assert_eq!(differences.len(), 1, "{owner} {name}: {differences:?}");
    }
}

#[test]
fn a_stale_exception_is_noticed() {
    let mut exceptions = only_ours();
    exceptions.insert("field metapb.Region 9 gone bytes".to_string());
    assert_eq!(compare(&our_rows(), &public_rows(), &exceptions).len(), 1);
}

/// Everything that is wrong, one sentence each.
fn compare(ours: &[Row], public: &[Row], exceptions: &BTreeSet<String>) -> Vec<String> {
    let by_name: BTreeMap<_, _> =
        public.iter().map(|row| ((&row.kind[..], &row.owner[..], &row.name[..]), row)).collect();
    let owners: BTreeSet<_> = public.iter().map(|row| &row.owner).collect();
    let mut unused = exceptions.clone();
    let mut differences = Vec::new();
    for row in ours {
        if unused.remove(&row.to_string()) {
            continue;
        }
        if row.kind == "message" {
            // The table has a line for a message only if it is empty; otherwise its fields name it.
            if !owners.contains(&row.owner) {
                differences.push(format!("only ours: {row}"));
            }
            continue;
        }
        match by_name.get(&(&row.kind[..], &row.owner[..], &row.name[..])) {
            None => differences.push(format!("only ours: {row}")),
            Some(twin) if row.number != twin.number || row.detail != expected(row, twin) => {
                differences.push(format!("ours: {row}; public: {twin}"));
            }
            Some(_) => {}
        }
    }
    differences.extend(unused.iter().map(|row| format!("listed, but not ours: {row}")));
    differences
}

/// What we should have in place of a line of the table: rules 1 and 2.
fn expected(ours: &Row, public: &Row) -> String {
    let (base, oneof) = match public.detail.split_once(" (oneof ") {
        Some((base, _)) => (base, true),
        None => (&public.detail[..], false),
    };
    match base {
        "eraftpb.ConfChangeType" => base.to_string(),
        _ if base.starts_with("eraftpb.") => "bytes".to_string(),
        _ if oneof && ours.detail.starts_with("optional ") => format!("optional {base}"),
        _ => public.detail.clone(),
    }
}

fn only_ours() -> BTreeSet<String> {
    ONLY_OURS.lines().filter(|line| !line.is_empty()).map(String::from).collect()
}

fn public_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in include_str!("kvproto.tsv").lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('\t').collect();
        let [kind, owner, number, name, detail] = columns[..] else {
            panic!("a line of kvproto.tsv has other than five columns: {line}");
        };
        // Whether a field is deprecated is not visible in the bytes.
        let detail = detail.replace(" [deprecated]", "");
        rows.push(Row::new(kind, owner, number, name, detail));
    }
    rows
}

fn our_rows() -> Vec<Row> {
    let set = FileDescriptorSet::decode(skerry_proto::FILE_DESCRIPTOR_SET)
        .expect("the build script wrote a descriptor set");
    let mut rows = Vec::new();
    for file in set.file.iter().filter(|file| !OWN_PACKAGES.contains(&file.package())) {
        for message in &file.message_type {
            add_message(&mut rows, file.package(), message);
        }
        for values in &file.enum_type {
            add_enum(&mut rows, file.package(), values);
        }
        for service in &file.service {
            let owner = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let stream = |streaming| if streaming { "stream " } else { "" };
                let detail = format!(
                    "{}{} -> {}{}",
                    stream(method.client_streaming()),
                    type_name(method.input_type()),
                    stream(method.server_streaming()),
                    type_name(method.output_type()),
                );
                rows.push(Row::new("rpc", &owner, "-", method.name(), detail));
            }
        }
    }
    rows
}

fn add_message(rows: &mut Vec<Row>, scope: &str, message: &DescriptorProto) {
    let owner = format!("{scope}.{}", message.name());
    rows.push(Row::new("message", &owner, "-", "-", "-".to_string()));
    for field in &message.field {
        let detail = field_detail(message, field);
        rows.push(Row::new("field", &owner, field.number(), field.name(), detail));
    }
    for values in &message.enum_type {
        add_enum(rows, &owner, values);
    }
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        add_message(rows, &owner, nested);
    }
}

fn add_enum(rows: &mut Vec<Row>, scope: &str, values: &EnumDescriptorProto) {
    let owner = format!("{scope}.{}", values.name());
    for value in &values.value {
        rows.push(Row::new("enum", &owner, value.number(), value.name(), "-".to_string()));
    }
}

/// The type of a field as the definition writes it.
fn field_detail(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let scalar = scalar_or_name(field);
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && scalar.ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = entry {
        let [key, value] = &entry.field[..] else { panic!("a map entry has a key and a value") };
        return format!("map<{},{}>", scalar_or_name(key), scalar_or_name(value));
    }
    if field.label() == Label::Repeated {
        return format!("repeated {scalar}");
    }
    match field.oneof_index {
        Some(_) if field.proto3_optional() => format!("optional {scalar}"),
        Some(index) => {
            let index = usize::try_from(index).expect("indexes are not negative");
            format!("{scalar} (oneof {})", message.oneof_decl[index].name())
        }
        None => scalar,
    }
}

fn scalar_or_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => type_name(field.type_name()).to_string(),
        // "TYPE_UINT64" is "uint64" in the definition.
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

/// Descriptors write full names with a leading dot.
fn type_name(name: &str) -> &str {
    name.trim_start_matches('.')
}

/// A map field is described as a list of messages that exist for nothing else.
fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}
