//! Compiles `proto/**/*.proto` into Rust at build time: protox parses (no protoc binary is needed),
//! and tonic-prost-build generates one Rust file per package into `OUT_DIR`.
//!
//! Two things are written: the generated modules, and the descriptors of all files in protobuf's
//! own form (`descriptors.bin`), which a test compares with the table of the wire our clients
//! speak.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Directory of the sources, relative to the package.
const PROTO_DIRECTORY: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIRECTORY}");
    println!("cargo:rerun-if-changed=build.rs");
    let out_directory = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?;

    let mut files = Vec::new();
    find_proto_files(Path::new(PROTO_DIRECTORY), &mut files)?;
    // Directory order differs between machines; generated code must not.
    files.sort();

    let mut compiler = protox::Compiler::new([PROTO_DIRECTORY])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    generate(compiler.file_descriptor_set())?;

    // Without comments: the test asks only for names, numbers and types.
    compiler.include_source_info(false);
    let target = Path::new(&out_directory).join("descriptors.bin");
    fs::write(target, compiler.encode_file_descriptor_set())?;
    Ok(())
}

fn find_proto_files(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find_proto_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Generates messages always, and services behind the crate's feature `services`.
fn generate(descriptors: prost_types::FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    const SERVICES_ONLY: &str = "#[cfg(feature = \"services\")]";
    tonic_prost_build::configure()
        // A value or a raft entry is passed on without being copied.
        .bytes(".")
        // Encoding a map must not depend on a hash seed: equal messages are equal bytes.
        .btree_map(".")
        // A pair is in the way of every scan and nearly never has an error, which is ten times its size.
        .boxed(".kvrpcpb.KvPair.error")
        // A frame may hold a million commands of two bytes each; unboxed, each would take the room of the largest.
        .boxed(".tikvpb.BatchCommandsRequest.Request.cmd")
        // A method that a service does not implement answers UNIMPLEMENTED, as clients expect.
        .generate_default_stubs(true)
        .client_mod_attribute(".", SERVICES_ONLY)
        .server_mod_attribute(".", SERVICES_ONLY)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
