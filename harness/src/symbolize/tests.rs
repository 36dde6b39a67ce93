// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups in images that a test can have: this very program, and a module compiled on the spot. A kernel image stands in
//! no repository.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::*;

fn ourselves() -> PathBuf {
    std::env::current_exe().expect("a running program")
}

#[inline(never)]
fn a_function_to_be_found(seed: u64) -> u64 {
    std::hint::black_box(seed.rotate_left(7)) ^ 0x5eed
}

fn symbol(symbolizer: &Symbolizer, object: &str, name: &str) -> String {
    let mut found =
        symbolizer.objects[object].index.names().filter(|symbol| oracle::readable(symbol).ends_with(name));
    found.next().unwrap_or_else(|| panic!("no symbol {name}")).to_string()
}

/// Compiles a relocatable object; its second function is in another section and inlines another.
fn module(folder: &Path, extra: &[&str]) -> PathBuf {
    let (source, object) = (folder.join("thing.rs"), folder.join("thing.ko"));
    let text = "#[inline(always)]\nfn inner(x: &mut u64) {\n    *x = x.wrapping_mul(7);\n}\n\
                pub extern \"C\" fn first(x: &mut u64) {\n    *x += 1;\n}\n\
                pub extern \"C\" fn second(x: &mut u64) {\n    inner(x);\n}\n\
                #[unsafe(link_section = \".init.text\")]\npub extern \"C\" fn begin(x: &mut u64) {\n    inner(x);\n}\n";
    fs::write(&source, text).expect("a writable folder");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(rustc)
        .args(["--crate-type=lib", "--emit=obj", "-g", "-Copt-level=1", "-Cpanic=abort", "--edition=2024"])
        .args(extra)
        .arg("-o")
        .args([&object, &source])
        .status();
    assert!(status.expect("a compiler").success());
    object
}

#[test]
fn a_function_of_a_linked_image_has_file_and_line() {
    std::hint::black_box(a_function_to_be_found(1));
    let symbolizer = Symbolizer::new(&ourselves(), &[], None).expect("readable debug information");
    let symbol = symbol(&symbolizer, "", "a_function_to_be_found");
    let frame = Frame { symbol: symbol.clone(), offset: 1, reliable: true, ..Frame::default() };
    let positions = symbolizer.symbolize(&frame);
    let outermost = positions.last().expect("a position");
    assert_eq!((outermost.file.as_str(), outermost.inlined), ("symbolize/tests.rs", false));
    assert!(outermost.function.ends_with("a_function_to_be_found"), "{}", outermost.function);
    assert!((19..24).contains(&outermost.line), "{}", outermost.line);

    // The same place as a bare address, of a kernel that was moved.
    let (start, size) = symbolizer.objects[""].index.symbols(&symbol).next().expect("a symbol");
    let slide = 0x1e00_0000;
    let raw = format!("0x{:x}", start + slide + 1);
    let frames = vec![Frame { symbol: raw.clone(), function: raw, reliable: true, ..Frame::default() }];
    let mut report = Report { frames, kernel_offset: Some(slide), ..Report::default() };
    symbolizer.fill(&mut report);
    let named = &report.frames[0];
    assert_eq!((&named.symbol, named.offset, named.size), (&symbol, 1, size));
    assert_eq!(named.source, positions);
    // Without the offset it is nowhere.
    report.frames[0] = Frame { symbol: "0xffffffffdeadbeef".into(), ..Frame::default() };
    symbolizer.fill(&mut report);
    assert_eq!(report.frames[0].source, []);
}

#[test]
fn inlined_functions_are_those_that_another_reader_of_debug_information_sees() {
    let symbolizer = Symbolizer::new(&ourselves(), &[], None).expect("readable debug information");
    let data = fs::read(ourselves()).expect("a readable program");
    let image = elf::Image::parse(&ourselves(), &data).expect("an image");
    let sections = gimli::DwarfSections::load(|id| image.debug_section(id.name())).expect("sections");
    let dwarf = sections.borrow(|section| gimli::EndianSlice::new(section, gimli::LittleEndian));
    let context = addr2line::Context::from_dwarf(dwarf).expect("a context");
    let index = &symbolizer.objects[""].index;
    let (mut n_checked, mut n_inlined) = (0, 0);
    // Names of this crate only: enough to meet every shape, and not the whole program.
    let names: Vec<&str> = index.names().filter(|name| name.contains("symbolize")).take(300).collect();
    for name in names {
        for (start, size) in index.symbols(name) {
            for address in (start..start + size).step_by(7) {
                let mut theirs = Vec::new();
                let mut frames = context.find_frames(address).skip_all_loads().expect("frames");
                while let Some(frame) = frames.next().expect("a frame") {
                    let Some(location) = frame.location else { break };
                    theirs.push((
                        location.file.map(path::normal).unwrap_or_default(),
                        location.line.unwrap_or_default(),
                    ));
                }
                let ours: Vec<(String, u32)> = (index.positions(address).into_iter())
                    .map(|position| (path::normal(&position.file), position.line))
                    .collect();
                assert_eq!(ours, theirs, "{name} {address:#x}");
                n_checked += 1;
                n_inlined += usize::from(ours.len() > 1);
            }
        }
    }
    assert!(n_checked > 1000 && n_inlined > 100, "{n_checked} addresses, {n_inlined} of them inlined");
}

#[test]
fn nothing_is_said_of_what_is_not_there() {
    let symbolizer = Symbolizer::new(&ourselves(), &[], None).expect("readable debug information");
    for (symbol, module, offset) in
        [("no_such_function", None, 1), ("main", Some("no_such_module"), 1), ("main", None, 1 << 40)]
    {
        let (symbol, module) = (symbol.to_string(), module.map(str::to_string));
        assert_eq!(symbolizer.symbolize(&Frame { symbol, module, offset, ..Frame::default() }), []);
    }
    let text = "[    1.0][ T1] nothing to add here\n no_such_function+0x1/0x2\r\nand no line break";
    assert_eq!(annotate(text, &symbolizer), text);
}

#[test]
fn a_relocatable_object_is_relocated() {
    for extra in [&[][..], &["-Cdebuginfo=2", "-Zdwarf-version=4"]] {
        // The flag wants a nightly compiler; without one the first turn is all there is to see.
        if extra.len() > 1 && std::env::var_os("RUSTC_BOOTSTRAP").is_none() {
            continue;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let object = module(folder.path(), extra);
        let symbolizer = Symbolizer::new(&ourselves(), &[object], None).expect("objects");
        let line = |name: &str| {
            let symbol = symbol(&symbolizer, "thing", name);
            format!("[    1.000000][   T1]  {symbol}+0x1/0x10 [thing]\n")
        };
        let annotated = annotate(&(line("second") + &line("begin")), &symbolizer);
        let expected = "[    1.000000][   T1]  thing::inner /thing.rs:3 [inline]\n\
                        [    1.000000][   T1]  thing::second+0x1/0x10 [thing] /thing.rs:9\n\
                        [    1.000000][   T1]  thing::inner /thing.rs:3 [inline]\n\
                        [    1.000000][   T1]  thing::begin+0x1/0x10 [thing] /thing.rs:13\n";
        let folder_name = folder.path().file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(annotated.replace(&folder_name, ""), expected);
    }
}

#[test]
fn an_index_is_kept_and_made_anew_when_it_is_damaged() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (object, cache) = (module(folder.path(), &[]), folder.path().join("cache"));
    let read = || {
        let symbolizer = Symbolizer::new(&object, &[], Some(&cache)).expect("an object");
        let symbol = symbol(&symbolizer, "", "second");
        let frame = Frame { symbol, offset: 1, ..Frame::default() };
        symbolizer.symbolize(&frame).into_iter().map(|source| source.line).collect::<Vec<_>>()
    };
    let kept = || {
        let files = fs::read_dir(&cache).expect("a cache").map(|entry| entry.expect("an entry").path());
        let [file] = &files.collect::<Vec<_>>()[..] else { panic!("not one file") };
        (file.clone(), fs::read(file).expect("a readable file"))
    };
    assert_eq!(read(), [3, 9]);
    let (path, good) = kept();
    assert_eq!(read(), [3, 9]);
    for bad in [&good[..good.len() / 2], b"", b"something else altogether"] {
        fs::write(&path, bad).expect("a writable file");
        assert_eq!(read(), [3, 9]);
        assert_eq!(kept(), (path.clone(), good.clone()));
    }
    // A cache that cannot be is no obstacle.
    let nowhere = object.join("below a file");
    assert!(Symbolizer::new(&object, &[], Some(&nowhere)).is_ok());
}

#[test]
fn files_that_are_no_images_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = folder.path().join("vmlinux");
    fs::write(&text, "no image").expect("a writable folder");
    let error = Symbolizer::new(&text, &[], None).err().expect("an error").to_string();
    assert!(error.contains("vmlinux: "), "{error}");
    let error =
        Symbolizer::new(&folder.path().join("missing"), &[], None).err().expect("an error").to_string();
    assert!(error.contains("missing: "), "{error}");
}
