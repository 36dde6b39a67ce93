// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes symbols readable.

/// A symbol as people write it: `foo.isra.0` is `foo`, and Rust's mangled names keep their last two path segments.
pub(crate) fn readable(symbol: &str) -> String {
    if let Ok(name) = rustc_demangle::try_demangle(symbol) {
        return rust_path(&format!("{name:#}"));
    }
    let stem = symbol.split('.').next().unwrap_or(symbol);
    cpp_name(stem).unwrap_or(stem).to_string()
}

/// `_Z8fakeNameiii` is `fakeName`: some drivers are C++ inside.
fn cpp_name(symbol: &str) -> Option<&str> {
    let rest = symbol.strip_prefix("_Z")?;
    let n_digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let length: usize = rest.get(..n_digits)?.parse().ok()?;
    rest.get(n_digits..n_digits.checked_add(length)?)
}

/// `<canary::Scanner as kernel::Shrinker>::scan` and `canary::scan::<u8>` are `Scanner::scan` and `canary::scan`.
fn rust_path(path: &str) -> String {
    let mut depth = 0usize;
    let mut plain = String::new();
    let text = path.strip_prefix('<').map_or(path, |inner| inner);
    let implementation = path.len() != text.len();
    let mut in_trait = false;
    for (at, symbol) in text.char_indices() {
        match symbol {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            '>' => in_trait = false,
            ' ' if implementation && depth == 0 && text[at..].starts_with(" as ") => in_trait = true,
            _ if depth == 0 && !in_trait => plain.push(symbol),
            _ => {}
        }
    }
    let segments: Vec<&str> =
        plain.split("::").map(str::trim).filter(|part| !part.is_empty() && !part.starts_with('{')).collect();
    segments[segments.len().saturating_sub(2)..].join("::")
}

/// One name for what architectures and kernel versions name differently: of all prefixes of system calls the one that
/// leaves least is taken off.
pub(crate) fn canonical(function: &str) -> String {
    const WRAPPERS: &[&str] = &[
        "SYSC_",
        "SyS_",
        "sys_",
        "__x64_",
        "__ia32_",
        "__arm64_",
        "____sys_",
        "___sys_",
        "__sys_",
        "__se_",
        "__se_sys_",
        "__do_sys_",
        "compat_SYSC_",
        "compat_SyS_",
        "ksys_",
    ];
    let plain =
        WRAPPERS.iter().filter_map(|wrapper| function.strip_prefix(wrapper)).min_by_key(|name| name.len());
    match function {
        "synchronize_sched"
        | "synchronize_rcu_expedited"
        | "synchronize_srcu"
        | "__synchronize_srcu"
        | "synchronize_net" => "synchronize_rcu",
        _ if function.starts_with("smp_call_function") => "smp_call_function",
        _ => plain.unwrap_or(function),
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn names_are_as_people_write_them() {
        for (symbol, name) in [
            ("shrink_slab", "shrink_slab"),
            ("vfs_kern_mount.part.27", "vfs_kern_mount"),
            ("__vmalloc_node_range.cold", "__vmalloc_node_range"),
            ("_RNvCs5oAo84G4OSN_6canary14use_after_free", "canary::use_after_free"),
            ("_RINvNtCs5oAo84G4OSN_6canary8shrinker12scan_objectsNtB4_6CanaryEB4_", "shrinker::scan_objects"),
            (
                "_RNvXs0_Cs5oAo84G4OSN_6canaryNtB5_6CanaryNtNtB5_8shrinker8Shrinker12scan_objects",
                "Canary::scan_objects",
            ),
            ("_ZN5thing6second17h292d6d610735e2aaE", "thing::second"),
            ("_Z8fakeNameiii", "fakeName"),
            ("_Z99short", "_Z99short"),
            ("_R", "_R"),
            ("", ""),
        ] {
            assert_eq!(readable(symbol), name);
        }
    }
}
